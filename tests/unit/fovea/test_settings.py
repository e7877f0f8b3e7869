import json
import logging
import re
from typing import Literal

import pytest
from pydantic import Field, SecretStr, field_validator

from encoder_service.settings import EncoderSettings
from fovea.settings import ServiceSettings, settings_config


class Settings(ServiceSettings):
    model_config = settings_config("python -m thing", "THING_")

    model: str
    """Checkpoint."""
    max_batch_size: int = Field(8, ge=1)
    """Most images in a batch; more wait."""
    share: float = 0.5
    """Of the memory."""
    password: SecretStr = SecretStr("")
    """Of the cache."""
    hosts: tuple[str, ...] = ()
    """Allowed."""
    revision: str | None = None
    """Of the model."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""

    @field_validator("share")
    @classmethod
    def _at_most_one(cls, value: float) -> float:
        if value > 1:
            raise ValueError("up to 1 is accepted")
        return value


def test_a_flag_wins_over_the_environment_which_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_MODEL", "from-env")
    monkeypatch.setenv("THING_MAX_BATCH_SIZE", "4")
    assert Settings.from_command_line([]).max_batch_size == 4
    settings = Settings.from_command_line(["--max-batch-size", "2"])
    assert (settings.model, settings.max_batch_size) == ("from-env", 2)


def test_a_misspelled_variable_is_an_error_that_names_the_right_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THING_MAX_BACH_SIZE", "4")
    with pytest.raises(SystemExit) as status:
        Settings.from_command_line(["--model", "x"])
    assert status.value.code == 2
    assert "did you mean THING_MAX_BATCH_SIZE" in capsys.readouterr().err


class Guarded(Settings):
    keys_file: str = ""
    """Of clients."""
    tls_key: str = ""
    """Of the server."""
    keep_ratio: float = 1
    """Of the tokens."""
    max_tokens: int = 1
    """Of an answer."""


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("THING_API_KEY", "THING_KEYS_FILE, a file of API keys, which fovea keys add NAME makes"),
        ("THING_KEEP_TOKENS", "THING_KEEP_RATIO, a share of the tokens"),
        ("THING_SSL_KEYFILE", "THING_TLS_KEY, "),
    ],
)
def test_a_name_of_another_program_is_answered_with_what_is_meant(
    name: str, right: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "64")
    with pytest.raises(SystemExit) as status:
        Guarded.from_command_line(["--model", "x"])
    assert status.value.code == 2
    written = capsys.readouterr().err
    assert f"unknown setting {name}; use {right}" in written
    assert "did you mean" not in written


def test_an_api_key_is_not_taken_for_the_key_of_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODER_API_KEY", "of another program")
    assert EncoderSettings.from_command_line(["--model", "x"]).tls_key == ""


def test_a_variable_of_the_containers_is_not_taken_for_a_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENCODER_GPU", "1")
    EncoderSettings.from_command_line(["--model", "x"])
    assert "ENCODER_GPU is not a setting and is ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["THING_SERVICE_HOST", "THING_SERVICE_PORT_GRPC", "THING_PORT", "THING_PORT_50051_TCP_ADDR", "THING_API_KEY"],
)
def test_variables_of_the_platform_and_of_others_do_not_keep_a_service_from_starting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:50051")
    assert Settings.from_command_line(["--model", "x"]).model == "x"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--model (THING_MODEL): a value is needed"),
        (["--model", "x", "--max-batch-size", "many"], "(THING_MAX_BATCH_SIZE): a whole number is accepted\n"),
        (["--model", "x", "--device", "tpu"], "'tpu' is not accepted; accepted: 'cpu' or 'cuda'\n"),
        (["--model", "x", "--port", "1"], "python -m thing: unrecognized arguments: --port 1; --help lists"),
        (["--model"], "python -m thing: argument --model: expected one argument\n"),
        (["--model", "x", "--max-batch-size", "0"], "--max-batch-size (THING_MAX_BATCH_SIZE)"),
        (["--model", "x", "--max-bach-size", "1"], "--max-bach-size 1; did you mean --max-batch-size? --help lists"),
        (["--model", "x", "--share", "2"], "python -m thing: --share (THING_SHARE): up to 1 is accepted\n"),
    ],
)
def test_a_bad_flag_is_named(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        Settings.from_command_line(argv)
    assert status.value.code == 2
    written = capsys.readouterr().err
    assert says in written
    assert written.count("\n") == 1


def test_help_tells_what_each_setting_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Settings.from_command_line(["--help"])
    assert "Most images in a batch; more wait." in capsys.readouterr().out


def test_help_shows_no_python_types(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Settings.from_command_line(["--help"])
    shown = capsys.readouterr().out
    assert re.findall(r"^  --(.+?)(?:  |$)", shown, re.MULTILINE) == [
        "model TEXT",
        "max-batch-size N",
        "share NUMBER",
        "password TEXT",
        "hosts TEXT,...",
        "revision TEXT",
        "device {cpu,cuda}",
    ]
    assert "(default: 8)" in shown
    assert "(required)" in shown
    assert not re.search(r"None|\(\)|\*\*|default: \)", shown)


def test_secrets_are_masked_in_the_log() -> None:
    settings = Settings.from_command_line(["--model", "x", "--password", "hunter2"])
    assert json.loads(settings.describe()) == {"model": "x", "password": "***"}
    assert "hunter2" not in settings.describe(defaults=True)


def test_the_log_has_what_differs_from_the_defaults_and_at_debug_everything(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("settings")
    settings = Settings.from_command_line(["--model", "x", "--hosts", "a,b", "--max-batch-size", "8"])
    with caplog.at_level(logging.INFO):
        settings.write_to(log)
    assert caplog.messages == ['settings that differ from their defaults: {"model": "x", "hosts": ["a", "b"]}']
    with caplog.at_level(logging.DEBUG):
        settings.write_to(log)
    assert set(json.loads(caplog.messages[-1].removeprefix("all settings: "))) == set(Settings.model_fields)
