"""Requests that the gateway refuses for the moment are sent again when it says so, within their deadline."""

from __future__ import annotations

import asyncio
import email.utils
from pathlib import Path
from typing import Any

import pytest

from fovea.cli import main
from fovea.client import AnswerError, AsyncClient, Client, ask
from fovea.client.retries import Attempts, retry_after_s
from tests.plain_gateway import PlainGateway, event

IMAGE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits of the clients, in seconds, which are not waited."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("fovea.client.sync_client.sleep", waits.append)
    monkeypatch.setattr("fovea.client.async_client.asyncio.sleep", sleep)
    return waits


@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_is_what_the_gateway_asks_for_and_all_is_sent_again(
    gateway: PlainGateway, waits: list[float], status: int, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(IMAGE)
    gateway.answers({"answer": "pink"})
    gateway.refusals = [(status, {"Retry-After": "7"}), (status, {"Retry-After": "11"})]
    with Client(gateway.url) as client:
        assert client.answer(image, "what?")["answer"] == "pink"
    assert waits == [7, 11]
    assert [dict(form)["image"] for form in gateway.forms] == [IMAGE] * 3
    deadlines = [float(dict(form)["timeout_s"]) for form in gateway.forms]
    assert deadlines[0] == 60
    assert max(deadlines[1:]) < 60


async def test_the_asynchronous_client_waits_as_long(gateway: PlainGateway, waits: list[float]) -> None:
    gateway.answers({"answer": "pink"})
    gateway.refusals = [(429, {"Retry-After": "7"})]
    async with AsyncClient(gateway.url) as client:
        assert (await client.answer(IMAGE, "what?"))["answer"] == "pink"
    assert waits == [7]


def test_a_stream_is_retried_before_its_first_piece(gateway: PlainGateway, waits: list[float]) -> None:
    gateway.reply = event("token", {"text": "pi"}) + event("done", {"answer": "pink"})
    gateway.refusals = [(503, {"Retry-After": "7"})]
    with Client(gateway.url) as client, client.stream(IMAGE, "what?") as stream:
        assert list(stream) == ["pi"]
        assert stream.answer["answer"] == "pink"
    assert waits == [7]


def test_the_error_of_the_last_attempt_tells_when_to_come_back(gateway: PlainGateway, waits: list[float]) -> None:
    gateway.refusals = [(429, {"Retry-After": str(seconds)}) for seconds in (1, 2, 3)]
    with pytest.raises(AnswerError, match=r"refused \(status 429\)") as caught:
        ask(gateway.url, IMAGE, "what?")
    assert waits == [1, 2]
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "overloaded", 3)


@pytest.mark.parametrize(
    ("refusal", "options"),
    [
        ((429, {"Retry-After": "60"}), {}),  # the deadline comes first
        ((429, {"Retry-After": "1"}), {"max_retries": 0}),
        ((500, {"Retry-After": "1"}), {}),
        ((413, {}), {}),
    ],
)
def test_no_wait_where_it_would_not_help(
    gateway: PlainGateway, waits: list[float], refusal: tuple[int, dict[str, str]], options: dict[str, Any]
) -> None:
    gateway.refusals = [refusal]
    with pytest.raises(AnswerError, match="refused"), Client(gateway.url, **options) as client:
        client.answer(IMAGE, "what?")
    assert waits == []
    assert len(gateway.forms) == 1


def test_waits_grow_where_the_gateway_names_none(gateway: PlainGateway, waits: list[float]) -> None:
    gateway.answers({"answer": "pink"})
    gateway.refusals = [(503, {})] * 3
    with Client(gateway.url, max_retries=3) as client:
        client.answer(IMAGE, "what?")
    assert waits == [0.5, 1, 2]


def test_the_command_tells_that_it_waits(
    gateway: PlainGateway, waits: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(IMAGE)
    gateway.answers({"answer": "pink"})
    gateway.refusals = [(429, {"Retry-After": "7"})]
    assert main(["ask", str(image), "what?", "--url", gateway.url]) == 0
    printed = capsys.readouterr()
    assert printed.out == "pink\n"
    assert printed.err == "fovea: refused (status 429); trying again in 7 s\n"


async def test_a_wait_is_cancelled_with_its_task(gateway: PlainGateway) -> None:
    gateway.refusals = [(429, {"Retry-After": "50"})]
    waiting = asyncio.Event()
    async with AsyncClient(gateway.url, on_retry=lambda error, wait_s: waiting.set()) as client:
        task = asyncio.create_task(client.answer(IMAGE, "what?"))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(gateway.forms) == 1


@pytest.mark.parametrize(
    ("header", "error", "seconds"),
    [
        ("7", {}, 7),
        (" 0.25 ", {"retry_after_s": 9}, 0.25),
        ("", {"retry_after_s": 9}, 9),
        ("-3", {}, 0),
        ("1e9", {}, 3600),
        (email.utils.formatdate(0, usegmt=True), {}, 0),
        *((text, {}, None) for text in ("", "soon", "nan", "inf", "Mon, 99 Foo 2026")),
        ("", {"retry_after_s": [1]}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, error: dict[str, Any], seconds: float | None) -> None:
    assert retry_after_s({"retry-after": header}, error) == seconds


def test_a_date_to_come_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fovea.client.retries.time.time", lambda: 1000.0)
    assert retry_after_s({"retry-after": email.utils.formatdate(1042, usegmt=True)}) == 42


def test_the_deadline_counts_from_the_first_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fovea.client.retries.time.monotonic", lambda: now[0])
    attempts = Attempts(timeout_s=10, max_retries=5)
    assert attempts.remaining_s == 10
    busy = AnswerError("busy", status=429, retry_after_s=4)
    assert attempts.wait_s(busy) == 4
    now[0] += 5
    assert attempts.remaining_s == 5
    assert attempts.wait_s(busy) == 4
    now[0] += 4
    with pytest.raises(AnswerError, match="busy"):
        attempts.wait_s(busy)
