"""Parser of server-sent events, by the HTML standard.

Lines end with CR LF, LF or CR alone. Python's `str.splitlines`, which many HTTP clients use, also splits at six other
characters, which an answer may contain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["EventParser", "events"]

_BOM = "\ufeff"


def events(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Events of a body.

    Args:
        chunks: chunks of the body, cut at any byte.

    Yields:
        Name and data of each event with data; the name is `message` where the event has none.
    """
    parser = EventParser()
    for chunk in chunks:
        yield from parser.feed(chunk)


class EventParser:
    """Parser of one body, for readers that receive its chunks one at a time."""

    def __init__(self) -> None:
        self._name, self._data = "", list[str]()
        self._pieces = list[bytes]()
        self._is_first_line, self._after_cr = True, False

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Name and data of each event with data that ends in this chunk; see `events`."""
        for line in self._lines(chunk):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
            elif not line:
                name, data = self._name or "message", self._data
                self._name, self._data = "", []
                if data:
                    yield name, "\n".join(data)

    def _lines(self, chunk: bytes) -> Iterator[str]:
        if self._after_cr and chunk:
            chunk, self._after_cr = chunk.removeprefix(b"\n"), False
        for piece in chunk.splitlines(keepends=True):  # bytes are split at CR LF, LF and CR alone
            self._pieces.append(piece)
            if piece.endswith((b"\r", b"\n")):
                line = b"".join(self._pieces).rstrip(b"\r\n").decode(errors="replace")
                line = line.removeprefix(_BOM) if self._is_first_line else line
                self._is_first_line, self._pieces = False, []
                yield line
            self._after_cr = piece.endswith(b"\r")
