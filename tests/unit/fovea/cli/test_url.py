"""The URL of the gateway: how it may be written, and what other servers answer there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fovea.cli import main
from fovea.client import AnswerError, ask
from fovea.client.gateway_url import gateway_url
from tests.plain_gateway import PlainGateway
from tests.unit.fovea.cli.commands import NOBODY, piped, refused


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("{url}", "/v1/answer"),
        ("{url}/", "/v1/answer"),
        ("{url}//", "/v1/answer"),
        ("  {url}/ ", "/v1/answer"),
        ("{url}/prefix", "/prefix/v1/answer"),
        ("{url}/a/prefix/", "/a/prefix/v1/answer"),
        ("{address}", "/v1/answer"),
        ("{address}/prefix/", "/prefix/v1/answer"),
        ("localhost:{port}", "/v1/answer"),
        ("HTTP://LOCALHOST:{port}", "/v1/answer"),
    ],
)
def test_a_url_is_taken_as_people_write_it(answering: PlainGateway, image: str, written: str, path: str) -> None:
    port = answering.server_port
    url = written.format(url=answering.url, address=f"127.0.0.1:{port}", port=port)
    assert main(["ask", image, "what?", "--url", url]) == 0
    assert answering.path == path
    assert ask(url, Path(image), "what?") == {"answer": "pink"}
    assert answering.path == path


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "ftp://h", "http:/h:8000", "https:h", "http://", "http://h:port", "http://h:70000", "http://h:0"),
        *("//h:1", "http://h/?a=b", "http://h/#a", "http://[::1", "http://a\x00b", "http://\udcff", ":8000"),
    ],
)
def test_invalid_urls_are_refused_with_what_is_accepted(
    image: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "http://HOST:PORT" in refused(["ask", image, "what?", "--url", url], capsys)
    assert "http://HOST:PORT" in refused(["explain", image, "what?", "--url", url], capsys)
    with pytest.raises(AnswerError, match="http://HOST:PORT"):
        ask(url, Path(image), "what?")


def test_the_base_url_of_an_openai_client_is_taken() -> None:
    for written in ("http://h:1/v1", "h:1/v1/", "http://h:1"):
        assert gateway_url(written) == "http://h:1"
    assert gateway_url("https://h/prefix/v1") == "https://h/prefix"


def test_addresses_of_the_sixth_version_have_brackets() -> None:
    assert gateway_url("[::1]:8000/") == "http://[::1]:8000"


def test_an_empty_variable_is_none(
    answering: PlainGateway, image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOVEA_URL", f"{answering.url}/")
    assert main(["ask", image, "what?"]) == 0
    monkeypatch.setenv("FOVEA_URL", "")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["ask", "--help"])
    assert "http://127.0.0.1:8000" in capsys.readouterr().out
    monkeypatch.setenv("FOVEA_URL", "ftp://h")
    assert "http://HOST:PORT" in refused(["ask", image, "what?"], capsys)


def test_a_proxy_in_the_environment_is_not_asked(
    answering: PlainGateway, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NOBODY)
    assert main(["ask", image, "what?", "--url", answering.url]) == 0


def test_a_password_in_a_url_is_not_printed(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", image, "what?", "--url", "http://user:secret@127.0.0.1:9/"]) == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9:" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("reply", "status", "says"),
    [
        ([1], 200, "no JSON object"),
        ({"error": "broken"}, 500, '{"error": "broken"} (status 500)'),
        ({"error": {"message": "too large"}}, 413, "too large (status 413)"),
        ({"detail": "x"}, 404, "(status 404)"),
    ],
)
def test_responses_of_other_servers_are_errors_in_one_line(
    gateway: PlainGateway, image: str, reply: Any, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers(reply, status)
    assert main(["ask", image, "what?", "--url", gateway.url]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_redirect_is_an_error_with_the_new_address(
    gateway: PlainGateway, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.status, gateway.content_type, gateway.location = 308, "text/html", "https://elsewhere/v1/answer"
    assert main(["ask", image, "what?", "--url", gateway.url]) == 1
    assert "https://elsewhere/v1/answer" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["ask", "{image}", "what?"], ["explain", "{image}", "what?"], ["chat", "{image}"]])
def test_a_refused_caller_reads_where_a_key_is_given(
    words: list[str],
    gateway: PlainGateway,
    image: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway.answers({"error": {"message": "no accepted API key", "code": "invalid_api_key"}}, 401)
    command = [*(word.format(image=image) for word in words), "--url", gateway.url]
    for key, says in (
        ([], "; give the key as the variable FOVEA_API_KEY, or as --api-key KEY\n"),
        (["--api-key", "k1"], "; the key of FOVEA_API_KEY or --api-key is none of this gateway's\n"),
    ):
        piped(monkeypatch, b"what?\n")
        assert main([*command, *key]) == 1
        assert capsys.readouterr().err == f"fovea: no accepted API key (status 401){says}"
