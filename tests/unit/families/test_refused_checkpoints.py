"""A checkpoint that is not served ends all three services at start, with the reason in the first sentence."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import encoder_service.__main__
import gateway.startup
import llm_service.__main__

SHIPPED: Final = Path(__file__).parents[3] / "lab/checkpoints/llava"
CLIP: Final = SHIPPED.parent / "clip"
FAMILIES: Final = "llava, llava_next, video_llava, qwen2_5_vl, qwen3_vl"
CONFIG: Final[dict[str, Any]] = json.loads((SHIPPED / "config.json").read_text())

Main = Callable[[list[str]], int]


@pytest.fixture(autouse=True)
def _own_logging_and_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the root logger, which a `main` configures."""
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "ENCODER_", "LLM_")):
            monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


SERVICES: Final[dict[str, tuple[Main, int]]] = {
    "encoder": (
        lambda flags: encoder_service.__main__.main([*flags, "--text-tower", str(CLIP), "--device", "cpu"]),
        1,
    ),
    "llm": (lambda flags: llm_service.__main__.main([*flags, "--device", "cpu"]), 1),
    "gateway": (gateway.startup.main, 2),
    "gateway_with_text_tower": (lambda flags: gateway.startup.main([*flags, "--text-tower", str(CLIP)]), 2),
}


def refusal(service: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Starts the service; returns its last line, without the prefix of logging."""
    main, status = SERVICES[service]
    assert main(["--model", str(checkpoint), "--listen", "127.0.0.1:0"]) == status
    written = capsys.readouterr().err
    assert "Traceback" not in written
    last = written.strip().splitlines()[-1]
    message = str(json.loads(last)["message"]) if last.startswith("{") else last.removeprefix("python -m gateway: ")
    assert str(checkpoint.parent) not in message
    return message


def write(folder: Path, files: dict[str, Any]) -> Path:
    """A directory of JSON files, or of empty ones."""
    made = folder / "mine"
    made.mkdir()
    for name, content in files.items():
        (made / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return made


def family(model_type: str) -> dict[str, Any]:
    return {"config.json": {"model_type": model_type}, "model.safetensors": "", "tokenizer.json": {}}


ORIGINAL: Final = {
    "model_type": "llava",
    "architectures": ["LlavaLlamaForCausalLM"],
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "hidden_size": 4096,
}
CASES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    **{
        name: (family(name), repr(name))
        for name in ("qwen3_5", "gemma3", "internvl", "llava_onevision", "mllama", "llama", "clip")
    },
    "original": ({"config.json": ORIGINAL, "tokenizer_config.json": {}, "pytorch_model.bin": ""}, "original layout"),
    "original, by its own name": ({"config.json": ORIGINAL | {"model_type": "llava_llama"}}, "original layout"),
    "nothing": ({}, "no config.json"),
    "no JSON": ({"config.json": "{"}, "no config.json that can be read"),
    "no object": ({"config.json": "[]"}, "not a JSON object"),
    "no family": ({"config.json": {"architectures": ["LlavaForConditionalGeneration"]}}, "names no family"),
    "GGUF": ({"ggml-model-q4_k.gguf": "GGUF", "README.md": ""}, "GGUF"),
    "adapter": ({"adapter_config.json": {"peft_type": "LORA"}, "adapter_model.safetensors": ""}, "adapter"),
    "SigLIP": (
        {"config.json": {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}}},
        "'siglip_vision_model'",
    ),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("case", CASES)
def test_the_first_sentence_says_what_is_not_supported_and_what_is(
    case: str, service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, says = CASES[case]
    message = refusal(service, write(tmp_path, files), capsys)
    first = message.split(". ")[0]
    assert "'mine' is not supported: " in first
    assert says in first
    assert FAMILIES in first
    assert "--text-tower" not in message
    assert "chat template" not in message


@pytest.mark.slow
@pytest.mark.parametrize(("module", "status"), [("encoder_service", 1), ("llm_service", 1), ("gateway", 2)])
def test_the_process_ends_with_that_sentence(module: str, status: int, tmp_path: Path) -> None:
    checkpoint = write(tmp_path, family("qwen3_5"))
    words = [sys.executable, "-m", module, "--model", str(checkpoint), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == status
    last = ended.stderr.strip().splitlines()[-1]
    assert "'mine' is not supported: " in last
    assert FAMILIES in last


def altered(tmp_path: Path, change: dict[str, Any]) -> Path:
    """Copies the shipped checkpoint with changed entries in config.json."""
    made = tmp_path / "mine"
    shutil.copytree(SHIPPED, made)
    (made / "config.json").write_text(json.dumps(CONFIG | change))
    return made


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantized already (awq)"),
        ({"text_config": {"model_type": "opt"}}, "its text model is a 'opt'; supported are"),
        ({"text_config": {"model_type": "t5"}}, "its text model is a 't5'; supported are"),
        ({"text_config": {"model_type": "nonesuch"}}, "cannot read as llava"),
        ({"text_config": CONFIG["text_config"] | {"hidden_size": "wide"}}, "cannot read as llava"),
    ],
)
def test_a_text_model_that_the_llm_service_does_not_take_is_named(
    change: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal("llm", altered(tmp_path, change), capsys)
    assert message.startswith("'mine' ")
    assert says in message.split(". ")[0]


@pytest.mark.parametrize("service", ["encoder", "llm"])
@pytest.mark.parametrize(
    ("left", "says"),
    [
        ("pytorch_model.bin", "its weights are in pytorch_model*.bin, not in *.safetensors"),
        ("README.md", "there is no weights file (*.safetensors) in it"),
    ],
)
def test_weights_in_another_form_are_said_to_be_missing(
    left: str, says: str, service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = altered(tmp_path, {})
    (checkpoint / "model.safetensors").rename(checkpoint / left)
    assert refusal(service, checkpoint, capsys).startswith(f"'mine' is not supported: {says}; supported are")


def test_a_vision_tower_that_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = altered(tmp_path, {"vision_config": CONFIG["vision_config"] | {"hidden_size": "wide"}})
    assert "cannot read the config of the vision tower" in refusal("encoder", checkpoint, capsys)


@pytest.mark.parametrize("main", [encoder_service.__main__.main, llm_service.__main__.main])
def test_both_gpu_services_say_the_same_of_a_config_that_transformers_refuses(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = family("qwen2_5_vl")
    files["config.json"] |= {"vision_config": {"depth": "deep"}}
    assert main(["--model", str(write(tmp_path, files)), "--listen", "127.0.0.1:0", "--device", "cpu"]) == 1
    message = json.loads(capsys.readouterr().err.strip().splitlines()[-1])["message"]
    assert message.startswith("'mine' has a config.json that transformers cannot read as qwen2_5_vl: ")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", "{", "the tokenizer.json of 'mine' is not valid JSON"),
        ("tokenizer.json", "{}", "'mine' has no tokenizer.json that can be read"),
        ("tokenizer_config.json", "[]", "the tokenizer_config.json of 'mine' is not a JSON object"),
        ("chat_template.jinja", "{% for %}", "the chat template of 'mine' is not a jinja2 template"),
        ("chat_template.jinja", "{{ 1 / 0 }}", "a question with an image cannot be written"),
        ("chat_template.jinja", "{{ messages[0]['role'] }}", "a question with an image cannot be written"),
    ],
)
def test_a_file_that_the_gateway_cannot_use_is_named(
    name: str, content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = altered(tmp_path, {})
    (checkpoint / name).write_text(content)
    assert refusal("gateway_with_text_tower", checkpoint, capsys).startswith(says)
