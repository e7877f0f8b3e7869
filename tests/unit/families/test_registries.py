"""Every place that a family needs has every family, and the steps of docs/extending.md name places that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from benchmarks.checkpoints.tiny import tokenizers_only
from benchmarks.exactness import split, unsplit
from encoder_service.models import FAMILIES
from encoder_service.pruners import PRUNERS
from fovea.checkpoints.text_towers import DEFAULT_TEXT_TOWERS
from fovea.pruner_spec import NO_PRUNING
from fovea.vllm_flags import REPLACEMENTS
from gateway.settings.requests import RequestSettings
from llm_service.models import FAMILIES as LLM_FAMILIES
from llm_service.pruners import PRUNERS as LLM_PRUNERS
from llm_service.vllm_plugin import ARCHITECTURES

ROOT = Path(__file__).parents[3]
FOLDERS = {path.name for path in ROOT.iterdir()}


def test_all_registries_have_the_same_families() -> None:
    families = set(DEFAULT_TEXT_TOWERS)
    assert set(FAMILIES) == set(LLM_FAMILIES) == families
    assert set(ARCHITECTURES) <= families  # vLLM may lack a family
    assert set(split.FAMILIES) == set(tokenizers_only.FAMILIES) == families
    for family in families:
        assert hasattr(unsplit.Unsplit, f"_media_{family}")
        assert f"| `{family}` |" in (ROOT / "docs/models.md").read_text()


def test_the_limits_of_the_families_are_those_that_are_told() -> None:
    table = (ROOT / "docs/models.md").read_text().partition("\n## ")[0]
    models = {family: getattr(importlib.import_module(module), name) for family, (module, name) in FAMILIES.items()}
    for family, model in models.items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{family}` |"))
        assert f"| {model.max_images}, {model.max_videos} |" in row
    (images,) = {model.max_images for model in models.values()}
    (videos,) = {model.max_videos for model in models.values()} - {0}
    fields = RequestSettings.model_fields
    page = (ROOT / "docs/openai.md").read_text()
    for text, says in (
        (REPLACEMENTS["--limit-mm-per-prompt"], f"no setting raises: {images} images, and {videos} videos or none"),
        (fields["max_images"].description, f"no setting raises: {images} for each family"),
        (fields["max_videos"].description, f"no setting raises: {videos}, or none"),
        (page, f"takes at most {images}, which no setting raises"),
        (page, f"take at most {videos}, the others none, which no setting raises"),
    ):
        assert says in " ".join(str(text).split())


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("docs/concepts.md", "one of {encoder} methods on the encoder's side"),
        ("docs/comparison.md", "{encoder} methods on the encoder's side and {llm} inside the language model"),
    ],
)
def test_the_pages_count_the_methods(page: str, says: str) -> None:
    """Keeping all tokens is no method of choosing some."""
    words = {7: "seven", 8: "eight", 12: "twelve", 13: "thirteen", 14: "fourteen"}
    counts = {"encoder": words[len(PRUNERS.keys() - {NO_PRUNING})], "llm": words[len(LLM_PRUNERS)]}
    assert says.format(**counts) in (ROOT / page).read_text().lower().replace("\n", " ")


def section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text()
    level = heading.split(" ")[0]
    return re.split(rf"^#{{2,{len(level)}}} ", text.split(f"\n{heading}\n")[1], flags=re.M)[0]


@pytest.mark.parametrize(
    ("page", "heading", "name", "examples"),
    [
        ("docs/extending.md", "## Adding a model family", "<family>", ("video_llava", "qwen2_5_vl")),
        ("docs/extending.md", "## A pruner in this repository", "<name>", ("flowcut",)),
        ("docs/extending.md", "## Adding a wire format", "<name>", ("basis",)),
        ("docs/extending.md", "## Adding an engine", "<name>", ("transformers",)),
    ],
)
def test_each_place_of_the_steps_exists(page: str, heading: str, name: str, examples: tuple[str, ...]) -> None:
    steps = section(page, heading)
    places = [text for text in re.findall(r"`([^`]+)`", steps) if "/" in text and text.split("/")[0] in FOLDERS]
    assert len(places) > 3
    for place in places:
        for example in examples:
            assert (ROOT / place.replace(name, example)).exists(), place
    for table, file in re.findall(r"`(\w+)` in `([^`]+\.py)`", steps):
        assert table in (ROOT / file).read_text(), f"{table} is not in {file}"
