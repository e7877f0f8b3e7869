"""What `fovea up` advises in place of flags that it does not have exists."""

from __future__ import annotations

import re
import sys
from typing import get_args

import pytest

from encoder_service.settings import EncoderSettings
from fovea.cli import main
from fovea.cli.service_variables import service_variables
from fovea.settings import ServiceSettings
from fovea.vllm_flags import REPLACEMENTS
from gateway.settings import GatewaySettings
from llm_service.settings import LLMSettings

VARIABLES = {
    f"{settings.model_config['env_prefix']}{field}".upper()
    for settings in (EncoderSettings, GatewaySettings, LLMSettings)
    for field in settings.model_fields
}


# Options of `fovea up` by the setting of a service that they stand for.
OWN = {"--model", "--text-tower", "--served-model-name", "--listen", "--redis-url", "--keys-file", "--allow-anonymous"}
SERVICE_FLAGS = sorted(
    {
        f"--{field.replace('_', '-')}"
        for settings in (EncoderSettings, GatewaySettings, LLMSettings)
        for field in settings.model_fields
    }
    - OWN
)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `fovea up` says about arguments, after the arguments."""
    with pytest.raises(SystemExit) as left:
        main(["up", *words])
    assert left.value.code == 2
    return capsys.readouterr().err.partition("unrecognized arguments: ")[2].partition("; ")[2].strip()


@pytest.mark.parametrize("flag", SERVICE_FLAGS)
def test_a_flag_of_a_service_is_answered_with_its_variable(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, flag, "7")
    if flag in ("--encoder", "--llm"):
        assert said == f"{flag}: fovea up starts this service itself and chooses its address"
        return
    assert said.startswith(f"in place of {flag} use ")
    name = flag.removeprefix("--").replace("-", "_").upper()
    variables = {f"{prefix}_{name}" for prefix in ("GATEWAY", "ENCODER", "LLM")} & VARIABLES
    assert {name for name in re.findall(r"[A-Z]+_[A-Z_]+", said) if name in VARIABLES} & variables


def test_a_flag_of_several_services_is_answered_with_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    choice = "GATEWAY_METRICS_LISTEN, ENCODER_METRICS_LISTEN or LLM_METRICS_LISTEN, each for one service"
    assert refusal(capsys, "--metrics-listen", "127.0.0.1:9100") == f"in place of --metrics-listen use {choice}"
    assert refusal(capsys, "--no-compile") == "in place of --no-compile use ENCODER_COMPILE=false"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mm-processor-kwargs", "{}"], "the sizes of images are those of the checkpoint's preprocessor_config.json"),
        (["--allowed-local-media-path=/data"], "no file of this machine is read for a client; clients send data URLs"),
        (["--trust-remote-code"], "only known families are loaded and no code of a checkpoint is run"),
        (["--chat-template", "x.jinja"], "the chat template is the checkpoint's own"),
        (["--generation-config", "vllm"], "accepted: greedy, full (vLLM's auto) and none (vLLM's vllm)"),
        (["--limit-mm-per-prompt", '{"image": 4}'], "up to the limits of the model's family, which no setting raises"),
        (["--engine", "vllm"], "use LLM_ENGINE=vllm"),
        (["--quantization", "awq"], "a checkpoint that is quantized already (AWQ, GPTQ, FP8) needs LLM_ENGINE=vllm"),
        (["--enable-prefix-caching"], "one of vLLM's engine is a name in LLM_ENGINE_ARGS, with LLM_ENGINE=vllm"),
    ],
)
def test_a_flag_of_vllm_leads_to_what_helps(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, *words)
    assert says in said
    assert ("a service's own option" in said) == (words == ["--enable-prefix-caching"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--limit-mm-per-prompt.image", "4"], "in place of --limit-mm-per-prompt use GATEWAY_MAX_IMAGES=N"),
        (["--allowed-origins", "['*']"], "use GATEWAY_CORS_ORIGINS="),
        (["--enable-auto-tool-choice", "--tool-call-parser", "hermes"], "no tools are called here"),
        (["--tokenizer", "x"], "the tokenizer is the checkpoint's own"),
    ],
)
def test_a_flag_of_vllms_server_is_not_taken_for_one_of_its_engine(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, *words)
    assert says in said
    assert "LLM_ENGINE_ARGS" not in said


def test_a_flag_that_is_known_is_named_beside_one_that_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--enable-prefix-caching", "--port", "1")
    assert said.startswith("in place of --port use --listen HOST:PORT; a service's own option is a variable")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--served_model_name", "qwen"], "did you mean --served-model-name?"),
        (["--allow_anonymous"], "did you mean --allow-anonymous?"),
        (["--key-file=keys"], "did you mean --keys-file?"),
        (["--modle", "x"], "did you mean --model?"),
        (["--max-modle-len", "44"], "did you mean --max-model-len? In its place use LLM_MAX_MODEL_LEN=N"),
    ],
)
def test_a_flag_that_is_written_otherwise_is_recognized(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *words) == says


@pytest.mark.parametrize(
    ("settings", "words", "says"),
    [
        (LLMSettings, ["--tensor-parallel-size", "2"], "use LLM_ENGINE=vllm with LLM_ENGINE_ARGS="),
        (LLMSettings, ["--gpu_memory_utilization", "0.9"], "use LLM_KV_CACHE_GIB=N"),
        (EncoderSettings, ["--trust-remote-code"], "no code of a checkpoint is run"),
        (
            GatewaySettings,
            ["--port", "1", "--api-key", "k"],
            "use --listen HOST:PORT; in place of --api-key use --keys",
        ),
        (LLMSettings, ["--api-key", "k"], "--api-key k; --help lists all settings"),  # it has no --keys-file
    ],
)
def test_a_service_answers_a_flag_of_vllm_with_what_takes_its_place(
    settings: type[ServiceSettings], words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings.from_command_line(["--model", "m", *words])
    assert says in capsys.readouterr().err


def test_a_second_name_is_not_taken_for_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--model", "folder", "--served-model-name", "qwen", "qwen-vl"]
    assert refusal(capsys, *named) == "one checkpoint is accepted after --model, and one name after --served-model-name"
    assert refusal(capsys, "--model", "folder", "other") == "--model is given already; one checkpoint is accepted"
    assert refusal(capsys, "--served-model-name", "qwen", "org/model") == "the model is named as --model org/model"


def test_a_service_that_is_not_installed_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gateway.settings", None)
    service_variables.cache_clear()
    try:
        said = refusal(capsys, "--metrics-listen", "127.0.0.1:9100")
    finally:
        service_variables.cache_clear()
    assert said == "in place of --metrics-listen use ENCODER_METRICS_LISTEN or LLM_METRICS_LISTEN, each for one service"


def test_the_names_of_the_sampling_defaults_are_those_that_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--generation-config", "auto")
    names = get_args(LLMSettings.model_fields["generation_defaults"].annotation)
    assert set(names) <= set(re.findall(r"\w+", said.partition("accepted:")[2]))


@pytest.mark.parametrize("flag", REPLACEMENTS)
def test_what_replaces_a_flag_exists_and_the_flag_does_not(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"--[a-z-]+|[A-Z]+_[A-Z_]+", REPLACEMENTS[flag].partition(", which")[0]))
    assert named
    assert named <= VARIABLES | options
    assert flag not in options
