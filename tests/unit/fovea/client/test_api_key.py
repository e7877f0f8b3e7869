"""API keys of clients: sent to the gateway, to no other host, and printed nowhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fovea.cli import main
from fovea.client import AnswerError, ask, explain
from tests.plain_gateway import PlainGateway

KEY = "fovea-" + "s" * 43
IMAGE = b"\x89PNG\r\n\x1a\n"


def test_the_key_is_sent_as_a_bearer_token(gateway: PlainGateway) -> None:
    gateway.answers({"answer": "pink"})
    ask(gateway.url, IMAGE, "what?", api_key=KEY)
    explain(gateway.url, IMAGE, "what?", api_key=KEY)
    ask(gateway.url, IMAGE, "what?")
    assert gateway.authorizations == [f"Bearer {KEY}", f"Bearer {KEY}", None]


def test_option_and_variable_of_the_command(
    gateway: PlainGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    gateway.answers({"answer": "pink"})
    words = ["ask", str(tmp_path / "a.png"), "what?", "--url", gateway.url]
    assert main([*words, "--api-key", KEY]) == 0
    monkeypatch.setenv("FOVEA_API_KEY", KEY)
    assert main(words) == 0
    monkeypatch.setenv("FOVEA_API_KEY", "")
    assert main(words) == 0
    assert gateway.authorizations == [f"Bearer {KEY}", f"Bearer {KEY}", None]
    assert capsys.readouterr().out == "pink\n" * 3


@pytest.mark.parametrize("words", [["ask", "--help"], ["bench", "--help"], ["demo", "--help"], ["explain", "--help"]])
def test_help_does_not_show_the_variable(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOVEA_API_KEY", KEY)
    with pytest.raises(SystemExit):
        main(words)
    printed = capsys.readouterr()
    assert "--api-key KEY" in printed.out
    assert KEY not in printed.out + printed.err


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_another_host_gets_neither_key_nor_image(gateway: PlainGateway, status: int) -> None:
    with PlainGateway() as other:
        gateway.answers({}, status)
        gateway.location = f"{other.url}/v1/answer"
        with pytest.raises(AnswerError, match="has moved"):
            ask(gateway.url, IMAGE, "what?", api_key=KEY)
        assert not other.asked.is_set()


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_takes_is_refused_without_being_shown(
    gateway: PlainGateway, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AnswerError, match="the API key is not accepted") as caught:
        ask(gateway.url, io.BytesIO(IMAGE).getvalue(), "what?", api_key=key)
    assert key not in str(caught.value)
    with pytest.raises(SystemExit):
        main(["ask", "a.png", "what?", "--api-key", key])
    assert key not in capsys.readouterr().err
    assert not gateway.asked.is_set()


def test_a_server_that_quotes_the_key_does_not_make_us_print_it(gateway: PlainGateway) -> None:
    gateway.answers({"error": {"message": f"no such key: {KEY}"}}, 401)
    with pytest.raises(AnswerError, match=r"no such key: \*\*\*"):
        ask(gateway.url, IMAGE, "what?", api_key=KEY)
