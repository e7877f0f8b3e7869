"""`fovea up` refuses variables and lines of the file for what it determines itself, and starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fovea.cli import main


@pytest.fixture(autouse=True)
def nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkpoint at its place, a service that was started in spite of the setting ends `fovea up`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line about the settings, with status 2."""
    assert main(["up", "--model", "none/such", *words]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("LLM_MODEL", "use --model MODEL"),
        ("ENCODER_MODEL", "use --model MODEL"),
        ("GATEWAY_MODEL", "use --model MODEL"),
        ("GATEWAY_LISTEN", "use --listen HOST:PORT"),
        ("ENCODER_LISTEN", "which chooses this address itself"),
        ("LLM_LISTEN", "which chooses this address itself"),
        ("GATEWAY_ENCODER", "which chooses this address itself"),
        ("GATEWAY_LLM", "which chooses this address itself"),
    ],
)
def test_a_variable_for_it_is_named_with_what_takes_its_place(
    variable: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "127.0.0.1:9000")
    assert refusal(capsys) == f"fovea up: error: {variable}: not accepted by fovea up, {remedy}"


def test_variables_of_options_that_are_given_are_refused_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENCODER_TEXT_TOWER", "tower")
    monkeypatch.setenv("GATEWAY_SERVED_MODEL_NAME", "name")
    said = refusal(capsys, "--text-tower", "other", "--served-model-name", "another")
    assert "ENCODER_TEXT_TOWER: not accepted by fovea up, use --text-tower MODEL" in said
    assert "GATEWAY_SERVED_MODEL_NAME: not accepted by fovea up, use --served-model-name NAME" in said


def test_a_line_of_the_file_for_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fovea.toml").write_text('[gateway]\nlisten = "127.0.0.1:9000"\n[llm]\nmodel = "m"\n')
    said = refusal(capsys, "--config", "fovea.toml")
    assert "listen in [gateway] of the configuration file: not accepted by fovea up, use --listen HOST:PORT" in said
    assert "model in [llm] of the configuration file: not accepted by fovea up, use --model MODEL" in said
    monkeypatch.setenv("FOVEA_CONFIG", "fovea.toml")
    assert refusal(capsys) == said


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LLM_MODEL", "")
    monkeypatch.setenv("GATEWAY_LISTEN", "x")
    assert "LLM_MODEL" not in refusal(capsys)
