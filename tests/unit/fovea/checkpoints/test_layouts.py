"""Supported checkpoints, and the errors of unsupported ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fovea.checkpoints import resolve, shown_name
from fovea.checkpoints.layouts import UnsupportedCheckpoint, checked_family

FAMILIES = ("llava", "llava_next", "video_llava", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a directory of files, those that are no text as JSON."""

    def make(**files: Any) -> Path:
        made = tmp_path / "mine"
        made.mkdir()
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (made / name.replace("__", ".")).write_text(text)
        return made

    return make


ORIGINAL = {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "openai/clip"}
SIGLIP = {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no config.json"),
        ({"config__json": "{"}, "no config.json that can be read"),
        ({"config__json": "[" * 100_000}, "no config.json that can be read"),
        ({"config__json": [1]}, "not a JSON object"),
        ({"config__json": {}}, "names no family"),
        ({"config__json": {"model_type": ["llava"]}}, "names no family"),
        ({"config__json": ORIGINAL}, "original layout of LLaVA"),
        ({"config__json": ORIGINAL | {"model_type": "llava_llama"}}, "original layout of LLaVA"),
        ({"config__json": {"architectures": ["LlavaMistralForCausalLM"]}}, "original layout of LLaVA"),
        ({"config__json": ORIGINAL, "model__safetensors": ""}, "original layout of LLaVA"),
        ({"config__json": SIGLIP}, "vision tower is a 'siglip_vision_model'"),
        ({"config__json": {"model_type": "llava", "vision_config": "clip"}}, "vision_config is not a JSON object"),
        ({"adapter_config__json": {}, "adapter_model__safetensors": ""}, "adapter"),
        ({"adapter_config__json": {}, "adapter_model__bin": "", "config__json": ORIGINAL}, "adapter"),
        ({"model__gguf": "GGUF"}, "GGUF"),
        ({"model__gguf": "GGUF", "config__json": {"model_type": "llava"}}, "GGUF"),
    ],
)
def test_the_first_sentence_says_what_is_not_supported_and_what_is(
    files: dict[str, Any], says: str, folder: Callable[..., Path]
) -> None:
    checkpoint = folder(**files)
    with pytest.raises(UnsupportedCheckpoint, match=r"^'mine' is not supported: ") as caught:
        checked_family(checkpoint)
    sentence = str(caught.value).split(". ")[0]
    assert says in sentence
    assert sentence.endswith(f"of the families {', '.join(FAMILIES)}")
    assert str(checkpoint.parent) not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "family"),
    [
        ({"config__json": {"model_type": "llava"}}, "llava"),
        ({"config__json": {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}}, "llava"),
        ({"config__json": {"model_type": "qwen2_5_vl", "vision_config": {"model_type": "qwen2_5_vl"}}}, "qwen2_5_vl"),
        ({"config__json": {"model_type": "qwen3_vl"}}, "qwen3_vl"),
        # What it was made from may lie beside a whole checkpoint.
        ({"config__json": {"model_type": "llava"}, "adapter_config__json": {}}, "llava"),
        ({"config__json": {"model_type": "llava"}, "model__safetensors": "", "model__gguf": ""}, "llava"),
    ],
)
def test_a_family_is_what_config_json_names(files: dict[str, Any], family: str, folder: Callable[..., Path]) -> None:
    assert checked_family(folder(**files)) == family


def test_a_copy_from_the_hub_is_called_by_its_id(tmp_path: Path) -> None:
    copy = tmp_path / "models--llava-hf--llava-1.5-7b-hf" / "snapshots" / "8c85e9a4d626b7b908448be32c1ba5ad79b95e76"
    copy.mkdir(parents=True)
    assert shown_name(copy) == "llava-hf/llava-1.5-7b-hf"
    assert shown_name(tmp_path) == tmp_path.name


@pytest.mark.parametrize("name", ["mine.gguf", "./mine.gguf", "models/mine.gguf"])
def test_a_file_is_no_checkpoint(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path(name).write_text("GGUF")
    with pytest.raises(FileNotFoundError, match=r"^'mine\.gguf' is a file; a checkpoint is a directory"):
        resolve(name, files=["*.json"])
