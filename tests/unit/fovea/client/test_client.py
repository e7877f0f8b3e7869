"""The client with the events of a plain HTTP server in place of a gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fovea
from fovea.cli import main
from fovea.client import AnswerError, ask, user_message
from fovea.client.event_stream import events
from tests.certificates import Authority
from tests.plain_gateway import PlainGateway as Gateway
from tests.plain_gateway import event
from tests.tls_server import serve_tls


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"an image")
    return path


def test_text_comes_piece_by_piece_and_the_object_at_the_end(gateway: Gateway, image: Path) -> None:
    pieces: list[str] = []
    gateway.reply = event("token", {"text": "a: b\n"}) + event("token", {"text": "é"}) + event("done", {"answer": "x"})
    assert ask(gateway.url, image, "what?", on_text=pieces.append) == {"answer": "x"}
    assert pieces == ["a: b\n", "é"]
    assert b'name="stream"\r\n\r\ntrue' in gateway.body


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (event("token", {"text": "a"}) + event("error", {"error": {"message": "the service is gone"}}), "gone"),
        (event("token", {"text": "a"}), "broke the answer off"),
        (event("token", {"text": "a"}) + "event: ping\ndata: {}\n\n", "broke the answer off"),
        ("event: token\ndata: {\n\n", "an event that is not JSON"),
    ],
)
def test_an_answer_that_ends_early_is_an_error(gateway: Gateway, image: Path, reply: str, says: str) -> None:
    gateway.reply = reply
    with pytest.raises(AnswerError, match=says):
        ask(gateway.url, image, "what?", on_text=lambda text: None)


SEPARATORS = "".join(chr(code) for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) > 1)


def test_any_text_survives_whichever_way_it_is_escaped(gateway: Gateway, image: Path) -> None:
    assert len(SEPARATORS) == 10
    texts = [f"a{SEPARATORS}\r\nb\ufeff", "data: x\n\nevent: done\n\n", "\U0001f468\u200d", "\U0001f3fd", "\x00\x7f"]
    for ensure_ascii in (True, False):
        pieces: list[str] = []
        gateway.reply = "".join(
            f"event: token\ndata: {json.dumps({'text': text}, ensure_ascii=ensure_ascii)}\n\n" for text in texts
        ) + event("done", {"answer": "".join(texts)})
        assert ask(gateway.url, image, "what?", on_text=pieces.append)["answer"] == "".join(texts)
        assert pieces == texts


def test_the_example_prints_any_text(gateway: Gateway, image: Path) -> None:
    text = f"a{SEPARATORS}b"
    usage = {"visual_tokens_kept": 1, "visual_tokens_total": 2, "wire_bytes": 3}
    gateway.reply = "".join(
        f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
        for name, data in (("token", {"text": text}), ("done", {"answer": text, "usage": usage}))
    )
    environment = {**os.environ, "FOVEA_URL": gateway.url, "PYTHONIOENCODING": "utf-8"}
    example = Path(__file__).parents[4] / "examples" / "stream.py"
    done = subprocess.run([sys.executable, example, image, "what?"], capture_output=True, env=environment, check=True)
    assert done.stdout.decode() == f"{text}\n(1 of 2 visual tokens, 3 bytes sent)\n"


@given(st.data())
def test_events_are_those_of_the_standard_however_the_body_is_cut(data: st.DataObject) -> None:
    text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=5)
    expected, body = [], data.draw(st.sampled_from(["", "\ufeff"]))
    for _ in range(data.draw(st.integers(0, 4))):
        name, lines = data.draw(text), data.draw(st.lists(text, min_size=1, max_size=3))
        expected.append((name or "message", "\n".join(lines)))
        end = data.draw(st.sampled_from(["\r\n", "\n", "\r"]))
        for line in (f"event: {name}", ": a comment", "id: 7", "retry", *(f"data: {part}" for part in lines), ""):
            body += line + end
    raw = body.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert list(events(chunks)) == expected


def test_an_event_comes_with_its_empty_line_and_what_is_cut_off_never() -> None:
    stream = events(iter([b"data:a\r\n\r", b"\ndata: b\r", b"\r", b"data: c\n"]))
    assert list(stream) == [("message", "a"), ("message", "b")]
    assert list(events([b"event: a\n\ndata: b\n\n"])) == [("message", "b")]
    assert list(events([b"data: a\r\revent: b", b"\ndata: c\n\n"])) == [("message", "a"), ("b", "c")]
    assert list(events([b"data: \xff\n\n"])) == [("message", "\ufffd")]


def test_without_a_listener_nothing_is_streamed(gateway: Gateway, image: Path) -> None:
    gateway.content_type, gateway.reply = "application/json", '{"answer": "x"}'
    assert ask(gateway.url, image, "what?", pruner="cls", llm_pruner={"name": "fastv"}) == {"answer": "x"}
    assert b"stream" not in gateway.body
    assert b'name="llm_pruner"\r\n\r\n{"name": "fastv"}' in gateway.body


def test_a_page_of_a_proxy_is_an_error(gateway: Gateway, image: Path) -> None:
    gateway.status, gateway.content_type, gateway.reply = 502, "text/html", "<html>"
    with pytest.raises(AnswerError, match="status 502 and no JSON"):
        ask(gateway.url, image, "what?", on_text=lambda text: None)


def test_https_at_a_gateway_without_it_names_the_url_that_works(gateway: Gateway, image: Path) -> None:
    url = gateway.url.replace("http:", "https:")
    with pytest.raises(AnswerError) as refused:
        ask(url, image, "what?")
    assert str(refused.value) == f"no connection to {url}: it speaks http, not https; use {gateway.url}"


def test_http_at_a_gateway_with_https_names_the_url_that_works(
    gateway: Gateway, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    url = serve_tls(gateway, authority)
    with pytest.raises(AnswerError) as refused:
        ask(gateway.url, image, "what?")
    assert str(refused.value) == (
        f"the connection to {gateway.url} broke; if it speaks https, use {url}; is `fovea up` running?"
    )
    with pytest.raises(AnswerError, match="the variable FOVEA_CA_FILE may name a PEM file with its authority"):
        ask(url, image, "what?")
    monkeypatch.setenv("FOVEA_CA_FILE", authority.ca)
    gateway.answers({"answer": "pink"})
    assert ask(url, image, "what?") == {"answer": "pink"}


@pytest.mark.parametrize("words", [["--pruner-params", "[1]"], ["--llm-pruner-params", "{"], ["--json", "--stream"]])
def test_meaningless_options_are_refused(words: list[str], image: Path) -> None:
    with pytest.raises(SystemExit) as status:
        main(["ask", str(image), "what?", *words])
    assert status.value.code == 2


def test_a_client_is_imported_from_the_package_and_takes_the_environment(
    gateway: Gateway, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_URL", gateway.url)
    monkeypatch.setenv("FOVEA_API_KEY", "fovea-key")
    gateway.answers({"answer": "pink"})
    with fovea.Client() as client:
        client.answer(image, "what?")
        assert gateway.authorizations == ["Bearer fovea-key"]
    with fovea.Client(api_key="") as client:
        client.answer(image, "what?")
        assert gateway.authorizations[1:] == [None]
    with pytest.raises(AttributeError, match="nothing"):
        fovea.nothing  # noqa: B018
    services = "import sys, fovea, fovea.telemetry; sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", services], check=True)


async def test_the_asynchronous_client_answers_streams_and_explains(gateway: Gateway, image: Path) -> None:
    async with fovea.AsyncClient(gateway.url) as client:
        gateway.answers({"answer": "pink"})
        assert (await client.answer([image, b"second"], "what?", keep_tokens=9))["answer"] == "pink"
        assert [value for name, value in gateway.form if name == "image"] == [b"an image", b"second"]
        assert dict(gateway.form)["keep_tokens"] == b"9"
        gateway.answers({"explain": {"pruner": "cls"}})
        assert (await client.explain(image, "what?"))["explain"]["pruner"] == "cls"
        gateway.content_type = "text/event-stream"
        gateway.reply = event("token", {"text": "pi"}) + event("token", {"text": "nk"}) + event("done", {"answer": "x"})
        async with client.stream(image, "what?") as stream:
            assert [text async for text in stream] == ["pi", "nk"]
            assert (await stream.answer())["answer"] == "x"
        gateway.reply = event("token", {"text": "a"})
        with pytest.raises(AnswerError, match="broke the answer off"):
            async with client.stream(image, "what?") as stream:
                assert [text async for text in stream] == ["never"]


def test_a_stream_that_nobody_reads_to_its_end_still_has_its_answer(gateway: Gateway, image: Path) -> None:
    gateway.reply = event("token", {"text": "a"}) * 3 + event("done", {"answer": "aaa"})
    with fovea.Client(gateway.url) as client, client.stream(image, "what?") as stream:
        assert next(stream) == "a"
        assert stream.answer["answer"] == "aaa"
        assert list(stream) == []


def test_errors_of_the_code_that_reads_a_stream_are_its_own(gateway: Gateway, image: Path) -> None:
    gateway.reply = event("token", {"text": "a"}) + event("done", {"answer": "a"})
    with (
        pytest.raises(httpx.ReadError, match="mine"),
        fovea.Client(gateway.url) as client,
        client.stream(image, "what?"),
    ):
        raise httpx.ReadError("mine")


def test_a_chat_history_holds_its_images(gateway: Gateway, image: Path) -> None:
    gateway.answers({"answer": "pink"})
    messages = [user_message("what?", [image]), {"role": "assistant", "content": "a moon"}, user_message("its color?")]
    with fovea.Client(gateway.url) as client:
        client.answer(messages=messages)
    assert [name for name, _ in gateway.form] == ["messages", "timeout_s"]
    first, _, last = json.loads(dict(gateway.form)["messages"])
    assert first["content"][0]["image_url"]["url"] == "data:image/png;base64,YW4gaW1hZ2U="
    assert last["content"] == [{"type": "text", "text": "its color?"}]


def test_models_and_pruners_are_listed(gateway: Gateway) -> None:
    with fovea.Client(gateway.url) as client:
        gateway.answers({"data": [{"id": "fovea-lab"}, {"id": "alias"}]})
        assert client.models() == ["fovea-lab", "alias"]
        assert gateway.path == "/v1/models"
        gateway.answers({"default_pruner": "desap"})
        assert client.pruners()["default_pruner"] == "desap"
        gateway.answers({"error": {"message": "no key", "code": "invalid_api_key"}}, 401)
        with pytest.raises(AnswerError, match="no key") as caught:
            client.models()
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
