"""The code blocks of the pages for new users work, word for word, and what the pages show comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fovea.processes.stack import Stack
from tests.documented import ROOT
from tests.pages import LINES_NOT_RUN, Block, blocks, run

START, CONCEPTS, OPENAI, EXTENDING = (f"docs/{name}.md" for name in ("start", "concepts", "openai", "extending"))
# The blocks of docs/extending.md are files of a package, and commands that need it: test_pruner_packages.py has them.
BLOCKS = [block for page in (START, CONCEPTS, OPENAI) for block in blocks(page)]
RUN = [block for block in BLOCKS if block.kind in ("bash", "python") and block.code.strip()]
ANSWERS = {
    case["question"]: case["answer"]
    for case in json.loads((ROOT / "lab" / "demo" / "demo.json").read_text())["questions"]
}


def test_every_block_is_of_a_kind_that_is_run_or_shown() -> None:
    assert {block.kind for block in BLOCKS} <= {"bash", "python", "text", "json"}
    assert {block.page for block in RUN} == {START, CONCEPTS, OPENAI}


def test_lines_that_are_not_run_are_on_a_page() -> None:
    lines = {
        line
        for page in (START, CONCEPTS, OPENAI, EXTENDING)
        for block in blocks(page)
        for line in block.body.splitlines()
    }
    assert not set(LINES_NOT_RUN) - lines


@pytest.mark.parametrize("block", RUN, ids=str)
@pytest.mark.usefixtures("unchanged")
def test_a_block_works(block: Block, stack: Stack, tmp_path: Path) -> None:
    printed = run(block, stack.url, tmp_path)
    assert printed.strip()
    assert '"error"' not in printed
    if "fovea explain" in block.body:
        assert (tmp_path / "questions.png").stat().st_size > 10_000
        return
    for question, answer in ANSWERS.items():
        if question in block.body:
            assert answer.lower() in printed.lower()


def test_the_refusal_on_the_page_about_openai_is_that_of_the_client(stack: Stack, tmp_path: Path) -> None:
    (refused,) = [block for block in RUN if "UnprocessableEntityError" in block.body]
    shown = BLOCKS[BLOCKS.index(refused) + 1]
    assert run(refused, stack.url, tmp_path) == shown.body


def shape(value: Any) -> Any:
    """Names of the fields of an object at all depths."""
    return {name: shape(part) for name, part in value.items()} if isinstance(value, dict) else None


def test_the_response_that_is_shown_has_the_fields_of_a_real_one(stack: Stack, tmp_path: Path) -> None:
    (shown,) = [block for block in blocks(START) if block.kind == "json"]
    (curl,) = [block for block in RUN if block.page == START and block.body.startswith("curl ")]
    real = json.loads(run(curl, stack.url, tmp_path))
    documented = json.loads(shown.body)
    assert shape(documented) == shape(real)
    assert documented["answer"] == real["answer"]
    assert documented["usage"]["visual_tokens_kept"] == real["usage"]["visual_tokens_kept"]
