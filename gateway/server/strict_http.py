"""HTTP/1.1 without the shapes of a request that a proxy in front may read otherwise, or that cost much per byte.

h11 alone accepts a request with both Content-Length and Transfer-Encoding, line ends without CR, folded headers, and
any number of headers and chunks that fit into one read of the socket.
"""

from __future__ import annotations

from typing import Any, Final

import h11

__all__ = ["MAX_HEAD_BYTES", "StrictConnection"]

MAX_HEAD_BYTES: Final = 16 * 1024
"""Most bytes of request line and headers together, and of the trailers of a body."""
_MAX_HEADERS: Final = 100
_FREE_CHUNKS: Final = 4096
_MIN_CHUNK_BYTES: Final = 256
"""Least mean size of a body's chunks, beyond the first `_FREE_CHUNKS`. Parsing a chunk takes 4 microseconds."""


class StrictConnection(h11.Connection):
    """Server side of an HTTP/1.1 connection that refuses what is ambiguous or expensive.

    Attributes:
        refusal: HTTP status and text for the client of the request that was refused; set before the error is raised.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.refusal = (400, "the request is not HTTP/1.1 (RFC 9112)")
        self._num_chunks = 0
        self._num_body_bytes = 0

    def next_event(self) -> Any:
        """See h11. Raises RemoteProtocolError for a request that is refused."""
        try:
            if self.their_state is h11.IDLE:
                self._check_head(self.trailing_data[0])
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                self._set_too_large()
            raise
        if isinstance(event, h11.Request):
            self._num_chunks = self._num_body_bytes = 0
            self._check_framing(event)
        elif isinstance(event, h11.Data):
            self._check_chunks(event)
        return event

    def _set_too_large(self) -> None:
        self.refusal = (
            431,
            f"the headers are larger than accepted: up to {MAX_HEAD_BYTES:,} bytes and {_MAX_HEADERS} headers are",
        )

    def _refuse(self, text: str) -> None:
        self.refusal = (400, text)
        raise h11.RemoteProtocolError(text)

    def _check_head(self, received: bytes) -> None:
        """Checks request line and headers before they are parsed, as far as they have arrived."""
        if not received:
            return
        head = received[: _head_bytes(received)]
        num_lines = head.count(b"\n")
        if len(head) > MAX_HEAD_BYTES or num_lines > _MAX_HEADERS + 2:
            self._set_too_large()
            raise h11.RemoteProtocolError("headers too large")
        if num_lines != head.count(b"\r\n"):
            self._refuse("a line of the headers ends without CR; CRLF is accepted")
        if b"\n " in head or b"\n\t" in head:
            self._refuse("a header goes on in a second line; headers of one line are accepted")

    def _check_framing(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        if b"transfer-encoding" not in names:
            return
        if b"content-length" in names:
            self._refuse("the request has both Content-Length and Transfer-Encoding; one of them is accepted")
        if request.http_version < b"1.1":
            self._refuse("Transfer-Encoding is accepted from HTTP/1.1 on")

    def _check_chunks(self, data: h11.Data) -> None:
        self._num_body_bytes += len(data.data)
        self._num_chunks += data.chunk_start
        if self._num_chunks > _FREE_CHUNKS + self._num_body_bytes // _MIN_CHUNK_BYTES:
            self._refuse(f"the chunks of the body are too small; {_MIN_CHUNK_BYTES} bytes and more are accepted")


def _head_bytes(received: bytes) -> int:
    """Size of request line and headers with the empty line behind them, whatever ends its lines; one byte more than
    accepted without an empty line."""
    end = received.find(b"\n\r\n", 0, MAX_HEAD_BYTES)
    size = MAX_HEAD_BYTES + 1 if end < 0 else end + len(b"\n\r\n")
    bare = received.find(b"\n\n", 0, min(size, MAX_HEAD_BYTES))
    return size if bare < 0 else bare + len(b"\n\n")
