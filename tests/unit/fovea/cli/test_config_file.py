"""`--config`: a flag overrides a variable, which overrides the file, which overrides the default."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fovea.cli import main
from fovea.cli.config_file import service_environment
from gateway.settings import GatewaySettings
from tests.plain_gateway import PlainGateway
from tests.unit.fovea.cli.commands import DEMO

ROOT = Path(__file__).parents[4]


@pytest.fixture
def config(tmp_path: Path, gateway: PlainGateway, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO, "demo.png")
    gateway.answers({"answer": "pink"})
    path = tmp_path / "fovea.toml"
    path.write_text(
        f'[client]\nurl = "{gateway.url}"\nkeep_tokens = 64\ncache = "bypass"\n'
        '[ask]\nkeep-tokens = 9\nstop = ["a", "b"]\npruner_params = {seed = 1}\njson = false\n[up]\nmodel = "m"\n'
    )
    return path


def asked(gateway: PlainGateway, *words: str) -> dict[str, bytes]:
    assert main(["ask", "demo.png", "what?", *words]) == 0
    return {name: value for name, value in gateway.form if name not in ("image", "question", "timeout_s")}


def test_the_file_has_options_and_the_table_of_the_command_comes_first(gateway: PlainGateway, config: Path) -> None:
    expected = {"keep_tokens": b"9", "cache": b"bypass", "stop": b"b", "pruner_params": b'{"seed": 1}'}
    assert asked(gateway, "--config", str(config)) == expected
    assert [value for name, value in gateway.form if name == "stop"] == [b"a", b"b"]


@pytest.mark.parametrize("words", [["--keep-ratio", "0.5"], ["--keep-r=0.5"]])
def test_a_flag_overrides_it_and_what_it_excludes(gateway: PlainGateway, config: Path, words: list[str]) -> None:
    fields = asked(gateway, f"--config={config}", *words, "--cache", "use", "--stop", "c")
    assert fields == {"keep_ratio": b"0.5", "cache": b"use", "stop": b"c", "pruner_params": b'{"seed": 1}'}
    assert [value for name, value in gateway.form if name == "stop"] == [b"c"]


def test_a_variable_overrides_it_and_may_name_it(
    gateway: PlainGateway, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_CONFIG", str(config))
    assert asked(gateway)["keep_tokens"] == b"9"
    with PlainGateway() as other:
        other.answers({"answer": "blue"})
        monkeypatch.setenv("FOVEA_URL", other.url)
        assert asked(other)["keep_tokens"] == b"9"
    assert len(gateway.forms) == 1


def test_no_file_is_read_that_is_not_named(gateway: PlainGateway, config: Path) -> None:
    assert asked(gateway, "--url", gateway.url) == {}
    assert main(["ask", "demo.png", "--url", gateway.url, "--", "--config=none"]) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[ask", "is not TOML"),
        ("url = 'x'", "there is no 'url'; accepted: the tables client, up, ask"),
        ("ask = 1", "ask is not a table"),
        ("[ask]\nkeep_token = 1", "[ask] keep_token: there is no such option; did you mean keep_tokens?"),
        ("[ask]\nnothing_like_it = 1", "accepted: api_key, "),
        ("[ask]\nconfig = 'x'", "there is no such option"),
        ("[ask]\nkeep_tokens = 0", "[ask] keep_tokens: '0' is not accepted; accepted: a whole number of at least 1"),
        ("[ask]\ncache = 'no'", "accepted: use, refresh, bypass"),
        ("[ask]\nstream = 'yes'", "[ask] stream: accepted: true or false"),
        ("[ask]\nseed = 1979-05-27", "[ask] seed: accepted: a text, a number"),
        ("[up]\nlisten = '8000'", "[up] listen: '8000' is not accepted; accepted: HOST:PORT"),
        ("[client]\nmodels = 1", "[client] models: there is no such option"),
        ("[keys]\nfile = 'x'", "there is no 'keys'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fovea.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["ask", "a.png", "what?", "--config", str(path)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert f"error: {path}" in error
    assert says in error


def test_a_key_that_is_not_accepted_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fovea.toml"
    path.write_text("[client]\napi_key = 'two words'")
    for words in (["ask", "a.png", "what?"], ["chat"]):
        with pytest.raises(SystemExit):
            main([*words, "--config", str(path)])
        assert "two words" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chat", "--config", name])
    assert f"cannot read {name}: " in capsys.readouterr().err


def test_settings_of_services_are_variables_that_the_environment_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fovea.toml"
    path.write_text('[gateway]\nalias = ["m@none", "m@cls:9"]\n[encoder]\nreflection = true\n[llm]\nmax-tokens = 3\n')
    expected = {"GATEWAY_ALIAS": "m@none,m@cls:9", "ENCODER_REFLECTION": "true", "LLM_MAX_TOKENS": "3"}
    assert service_environment(str(path)) == expected
    monkeypatch.setenv("LLM_MAX_TOKENS", "5")
    del expected["LLM_MAX_TOKENS"]
    assert service_environment(str(path)) == expected
    assert service_environment(None) == {}
    for name, value in expected.items():
        monkeypatch.setenv(name, value)
    assert GatewaySettings.from_command_line(["--model", "m"]).alias == ["m@none", "m@cls:9"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            '[llm]\npruner = "none"',
            "[llm] pruner: there is no such setting; use [encoder] pruner = NAME, the default of",
        ),
        ("[llm]\ngpu_memory_utilization = 0.9", "use [llm] kv_cache_gib = N, or [llm] engine = "),
        ("[encoder]\nmax_tokens = 4", "use [gateway] max_tokens = N and [llm] max_tokens = N"),
        ("[gateway]\nport = 9000", "[gateway] port: there is no such setting; use --listen HOST:PORT"),
        ("[gateway]\nreflection = true", "use [encoder] reflection = true or [llm] reflection = true, each for one"),
        ("[llm]\nMax-Bach-Size = 2", "[llm] Max-Bach-Size: there is no such setting; did you mean max_batch_size?"),
        ("[llm]\nchat_template = 'x'", "the chat template is the checkpoint's own"),
        ("[gateway]\nxyzzy = 1", "[gateway] xyzzy: there is no such setting; python -m gateway --help lists all"),
    ],
)
@pytest.mark.parametrize("command", ["up", "doctor"])
def test_a_setting_that_the_service_does_not_have_is_an_error_with_its_place(
    command: str,
    line: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "fovea.toml"
    path.write_text(line)
    assert main([command, "--model", "none/such", "--config", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"error: {path}: " in printed.err
    assert says in printed.err


def test_the_file_of_the_page_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs" / "cli.md").read_text(), re.M | re.S)
    path = tmp_path / "fovea.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["ask", "--config", str(path), "--help"])
    assert left.value.code == 0
    for name, value in service_environment(str(path)).items():
        monkeypatch.setenv(name, value)
    assert GatewaySettings.from_command_line(["--model", "m"])
