"""Client of the gateway for scripts and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import sleep
from types import TracebackType
from typing import Any, Self, Unpack, cast

import httpx

from fovea.client.answers import Answer, AnswerFields, ExplainFields, Explanation, PrunerList
from fovea.client.connection_settings import api_key_or_variable, tls_context, url_or_variable
from fovea.client.exchange import AnswerEvents, Exchange, read_object, refusal
from fovea.client.form_parts import Medium, Message, form_parts, question_fields
from fovea.client.retries import Attempts, OnRetry

__all__ = ["AnswerStream", "Client"]


class AnswerStream:
    """Answer that is being decoded: an iterator over the pieces of its text."""

    def __init__(self, exchange: Exchange, response: httpx.Response) -> None:
        self._exchange = exchange
        self._events = AnswerEvents(exchange.shown_url)
        self._chunks = response.iter_bytes()
        self._pieces: Iterator[str] = iter(())

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        with self._exchange.errors():
            while (text := next(self._pieces, None)) is None and self._events.answer is None:
                chunk = next(self._chunks, None)
                if chunk is None:
                    self._events.finish()
                else:
                    self._pieces = self._events.feed(chunk)
        if text is None:
            raise StopIteration
        return text

    @property
    def answer(self) -> Answer:
        """The whole answer. Pieces that were not read yet are read first.

        Raises:
            AnswerError: the answer ends with an error.
        """
        for _ in self:
            pass
        return cast(Answer, self._events.finish())


class Client:
    """Client of one gateway. It may be used by several threads, and closes its connections with `close` or `with`.

    A request that the gateway refuses for the moment (429, 503) is sent again after the time that the gateway names in
    `Retry-After`, if that is within the deadline.

    Args:
        url: base URL of the gateway; None for the variable FOVEA_URL, or `http://127.0.0.1:8000` without it. The
            default scheme is http, and a slash at the end is ignored.
        api_key: API key; None for the variable FOVEA_API_KEY, empty for no key. It is sent to this gateway alone, and
            no error shows it.
        timeout_s: deadline of a request in seconds, retries included.
        max_retries: most attempts after the first one; 0 for none.
        on_retry: function that is called before each wait with the error and the seconds; None for none.

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
        self._http = httpx.Client(trust_env=False, verify=tls_context())

    def answer(
        self,
        images: Medium | Sequence[Medium] = (),
        question: str | None = None,
        *,
        video: Medium | None = None,
        messages: Sequence[Message] | None = None,
        timeout_s: float | None = None,
        **fields: Unpack[AnswerFields],
    ) -> Answer:
        """Answer to one question about images, a video or both.

        Args:
            images: one image, or several; an empty list for none. Each is a path, the content of a file, or a URL that
                the gateway resolves.
            question: text of the question. `<image>` and `<video>` in it mark the positions of the media; media
                without a mark come first.
            video: video as a path, content or URL, for families that take one; None for none.
            messages: chat history that ends with the question, in place of the arguments before; see `user_message`.
            timeout_s: deadline in seconds; None for that of the client.
            fields: further fields of `/v1/answer`, such as pruner="cls", keep_tokens=32, explain=True.

        Raises:
            AnswerError: a file cannot be read, the gateway cannot be reached, or it answered with an error.
        """
        form = question_fields(fields, question, messages)
        return cast(Answer, self._post("/v1/answer", images, video, form, timeout_s))

    @contextmanager
    def stream(
        self,
        images: Medium | Sequence[Medium] = (),
        question: str | None = None,
        *,
        video: Medium | None = None,
        messages: Sequence[Message] | None = None,
        timeout_s: float | None = None,
        **fields: Unpack[AnswerFields],
    ) -> Iterator[AnswerStream]:
        """Context manager with the answer as it is decoded. Its end cancels what was not read.

            with client.stream(Path("a.png"), "What is this?") as stream:
                for text in stream:
                    print(text, end="", flush=True)
                kept = stream.answer["usage"]["visual_tokens_kept"]

        Args:
            images, question, video, messages, timeout_s, fields: see `answer`. A request is retried before the first
                piece only.

        Raises:
            AnswerError: see `answer`; also while the pieces are read.
        """
        form = question_fields(fields, question, messages) | {"stream": True}
        with ExitStack() as opened:
            with self._exchange.errors():
                response = self._sent(opened, "/v1/answer", images, video, form, timeout_s)
            yield AnswerStream(self._exchange, response)

    def explain(
        self,
        images: Medium | Sequence[Medium] = (),
        question: str | None = None,
        *,
        video: Medium | None = None,
        messages: Sequence[Message] | None = None,
        timeout_s: float | None = None,
        **fields: Unpack[ExplainFields],
    ) -> Explanation:
        """Explanation of the visual tokens that would be kept for a question. No answer is generated.

        Args:
            images, question, video, messages, timeout_s: see `answer`.
            fields: further fields of `/v1/explain`, such as keep_tokens=32, maps=True.

        Raises:
            AnswerError: see `answer`.
        """
        form = question_fields(fields, question, messages) | {"format": "json"}
        return cast(Explanation, self._post("/v1/explain", images, video, form, timeout_s))

    def models(self) -> list[str]:
        """Names that requests may give as `model`.

        Raises:
            AnswerError: the gateway cannot be reached, or answered with an error.
        """
        return [card["id"] for card in self._get("/v1/models")["data"]]

    def pruners(self) -> PrunerList:
        """Pruners of both services, and the defaults of this gateway.

        Raises:
            AnswerError: the gateway cannot be reached, or answered with an error.
        """
        return cast(PrunerList, self._get("/v1/pruners"))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str) -> dict[str, Any]:
        with self._exchange.errors():
            response = self._http.request(**self._exchange.get(path, self._timeout_s))
            return read_object(self._exchange.shown_url, response)

    def _post(
        self,
        path: str,
        images: Medium | Sequence[Medium],
        video: Medium | None,
        form: Mapping[str, Any],
        timeout_s: float | None,
    ) -> dict[str, Any]:
        with ExitStack() as opened, self._exchange.errors():
            response = self._sent(opened, path, images, video, form, timeout_s)
            response.read()
            return read_object(self._exchange.shown_url, response)

    def _sent(
        self,
        opened: ExitStack,
        path: str,
        images: Medium | Sequence[Medium],
        video: Medium | None,
        form: Mapping[str, Any],
        timeout_s: float | None,
    ) -> httpx.Response:
        """Response, not yet read, of the first attempt that is not refused for the moment."""
        parts = opened.enter_context(form_parts(images, video, form))
        attempts = Attempts(self._timeout_s if timeout_s is None else timeout_s, self._max_retries, self._on_retry)
        while True:
            request = self._exchange.post(path, parts, attempts.remaining_s)
            response = opened.enter_context(self._http.stream(**request))
            if response.is_success:
                return response
            response.read()
            sleep(attempts.wait_s(refusal(self._exchange.shown_url, response)))
