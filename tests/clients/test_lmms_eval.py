"""lmms-eval with its own model for OpenAI's API, on a task of the small world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fovea.processes.stack import Stack
from lab.questions import GROUPS, Question, evaluation_questions, score
from tests.clients.environments import run
from tests.clients.own_answers import ask

TASK = Path(__file__).parent / "lmms_eval_task"
EXACT_GROUPS = tuple(group for group in GROUPS if group != "caption")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return evaluation_questions("easy", 903, 6, groups=EXACT_GROUPS)


@pytest.fixture(scope="module")
def files(questions: list[Question], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An image file for each question, in a folder that the package `datasets` reads."""
    folder = tmp_path_factory.mktemp("scenes") / "test"
    folder.mkdir()
    paths = [folder / f"{number:03}.png" for number in range(len(questions))]
    rows = []
    for path, question in zip(paths, questions, strict=True):
        question.image.save(path)
        rows.append({"file_name": path.name, "question": question.text, "answer": question.answer})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@pytest.mark.parametrize(
    ("model", "fields"),
    [("fovea-lab@none", {"pruner": "none"}), ("fovea-lab@desap:8", {"pruner": "desap", "keep_tokens": 8})],
)
def test_its_score_is_that_of_our_own_evaluation(
    stack: Stack,
    http: httpx.Client,
    questions: list[Question],
    files: list[Path],
    tmp_path: Path,
    model: str,
    fields: dict[str, Any],
) -> None:
    task = tmp_path / "task"
    task.mkdir()
    (task / "utils.py").write_text((TASK / "utils.py").read_text())
    yaml = (TASK / "lab_scenes.yaml").read_text()
    (task / "lab_scenes.yaml").write_text(yaml.replace("DATA_DIR", str(files[0].parent.parent)))
    options = f"model_version={model},base_url={stack.url}/v1,api_key=unused,num_concurrent=4,timeout=120"
    run(
        "lmms-eval",
        *("python", "-m", "lmms_eval", "eval", "--model", "openai", "--model_args", options),
        *("--tasks", "lab_scenes", "--include_path", str(task), "--output_path", "out", "--log_samples"),
        cwd=tmp_path,
        HF_DATASETS_OFFLINE="1",
    )
    (results,) = (tmp_path / "out").glob("*/*_results.json")
    (samples,) = (tmp_path / "out").glob("*/*_samples_lab_scenes.jsonl")
    answers = {row["doc_id"]: row["filtered_resps"] for row in map(json.loads, samples.read_text().splitlines())}
    own = [
        ask(http, [file], question.text, max_tokens=16, **fields)["answer"]
        for file, question in zip(files, questions, strict=True)
    ]
    assert [answers[number] for number in range(len(questions))] == own
    own_score = sum(score(question, answer) for question, answer in zip(questions, own, strict=True)) / len(own)
    assert json.loads(results.read_text())["results"]["lab_scenes"]["exact_match,none"] == pytest.approx(own_score)
    assert own_score > 0.5, "a task that fails throughout compares nothing"
