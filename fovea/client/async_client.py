"""Client of the gateway for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, Unpack, cast

import httpx

from fovea.client.answers import Answer, AnswerFields, ExplainFields, Explanation, PrunerList
from fovea.client.connection_settings import api_key_or_variable, tls_context, url_or_variable
from fovea.client.exchange import AnswerEvents, Exchange, read_object, refusal
from fovea.client.form_parts import Medium, Message, form_parts, question_fields
from fovea.client.retries import Attempts, OnRetry

__all__ = ["AsyncAnswerStream", "AsyncClient"]


class AsyncAnswerStream:
    """Answer that is being decoded: an asynchronous iterator over the pieces of its text."""

    def __init__(self, exchange: Exchange, response: httpx.Response) -> None:
        self._exchange = exchange
        self._events = AnswerEvents(exchange.shown_url)
        self._chunks = response.aiter_bytes()
        self._pieces: Iterator[str] = iter(())

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        with self._exchange.errors():
            while (text := next(self._pieces, None)) is None and self._events.answer is None:
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    self._events.finish()
                else:
                    self._pieces = self._events.feed(chunk)
        if text is None:
            raise StopAsyncIteration
        return text

    async def answer(self) -> Answer:
        """The whole answer. Pieces that were not read yet are read first.

        Raises:
            AnswerError: the answer ends with an error.
        """
        async for _ in self:
            pass
        return cast(Answer, self._events.finish())


class AsyncClient:
    """Client of one gateway, whose methods are those of `Client` as coroutines.

    A cancelled task cancels its request, also while it waits for a retry.

    Args:
        url, api_key, timeout_s, max_retries, on_retry: see `Client`.

    Raises:
        AnswerError: URL or key is not accepted.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._exchange = Exchange(url_or_variable(url), api_key_or_variable(api_key))
        self._timeout_s, self._max_retries, self._on_retry = timeout_s, max_retries, on_retry
        self._http = httpx.AsyncClient(trust_env=False, verify=tls_context())

    async def answer(
        self,
        images: Medium | Sequence[Medium] = (),
        question: str | None = None,
        *,
        video: Medium | None = None,
        messages: Sequence[Message] | None = None,
        timeout_s: float | None = None,
        **fields: Unpack[AnswerFields],
    ) -> Answer:
        """Answer to one question; see `Client.answer`."""
        form = question_fields(fields, question, messages)
        return cast(Answer, await self._post("/v1/answer", images, video, form, timeout_s))

    @asynccontextmanager
    async def stream(
        self,
        images: Medium | Sequence[Medium] = (),
        question: str | None = None,
        *,
        video: Medium | None = None,
        messages: Sequence[Message] | None = None,
        timeout_s: float | None = None,
        **fields: Unpack[AnswerFields],
    ) -> AsyncIterator[AsyncAnswerStream]:
        """Context manager with the answer as it is decoded; see `Client.stream`.

        async with client.stream(Path("a.png"), "What is this?") as stream:
            async for text in stream:
                print(text, end="", flush=True)
            kept = (await stream.answer())["usage"]["visual_tokens_kept"]
        """
        form = question_fields(fields, question, messages) | {"stream": True}
        async with AsyncExitStack() as opened:
            with self._exchange.errors():
                response = await self._sent(opened, "/v1/answer", images, video, form, timeout_s)
            yield AsyncAnswerStream(self._exchange, response)

    async def explain(
        self,
        images: Medium | Sequence[Medium] = (),
        question: str | None = None,
        *,
        video: Medium | None = None,
        messages: Sequence[Message] | None = None,
        timeout_s: float | None = None,
        **fields: Unpack[ExplainFields],
    ) -> Explanation:
        """Explanation of the visual tokens that would be kept for a question; see `Client.explain`."""
        form = question_fields(fields, question, messages) | {"format": "json"}
        return cast(Explanation, await self._post("/v1/explain", images, video, form, timeout_s))

    async def models(self) -> list[str]:
        """Names that requests may give as `model`."""
        return [card["id"] for card in (await self._get("/v1/models"))["data"]]

    async def pruners(self) -> PrunerList:
        """Pruners of both services, and the defaults of this gateway."""
        return cast(PrunerList, await self._get("/v1/pruners"))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _get(self, path: str) -> dict[str, Any]:
        with self._exchange.errors():
            response = await self._http.request(**self._exchange.get(path, self._timeout_s))
            return read_object(self._exchange.shown_url, response)

    async def _post(
        self,
        path: str,
        images: Medium | Sequence[Medium],
        video: Medium | None,
        form: Mapping[str, Any],
        timeout_s: float | None,
    ) -> dict[str, Any]:
        async with AsyncExitStack() as opened:
            with self._exchange.errors():
                response = await self._sent(opened, path, images, video, form, timeout_s)
                await response.aread()
                return read_object(self._exchange.shown_url, response)

    async def _sent(
        self,
        opened: AsyncExitStack,
        path: str,
        images: Medium | Sequence[Medium],
        video: Medium | None,
        form: Mapping[str, Any],
        timeout_s: float | None,
    ) -> httpx.Response:
        """Response, not yet read, of the first attempt that is not refused for the moment."""
        # In a thread, because a named pipe is read to its end.
        parts = await asyncio.to_thread(opened.enter_context, form_parts(images, video, form))
        attempts = Attempts(self._timeout_s if timeout_s is None else timeout_s, self._max_retries, self._on_retry)
        while True:
            request = self._exchange.post(path, parts, attempts.remaining_s)
            response = await opened.enter_async_context(self._http.stream(**request))
            if response.is_success:
                return response
            await response.aread()
            await asyncio.sleep(attempts.wait_s(refusal(self._exchange.shown_url, response)))
