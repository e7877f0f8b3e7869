"""Parser of server-sent events, by the HTML standard.

Lines end with CR LF, LF or CR alone. Python's `str.splitlines`, which many HTTP clients use, also splits at six other
characters, which an answer may contain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["events"]

_BOM = "\ufeff"


def events(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Events of a body.

    Args:
        chunks: chunks of the body, cut at any byte.

    Yields:
        Name and data of each event with data; the name is `message` where the event has none.
    """
    name, data = "", list[str]()
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield name or "message", "\n".join(data)
            name, data = "", []


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    first, pieces, after_cr = True, list[bytes](), False
    for chunk in chunks:
        if after_cr and chunk:
            chunk, after_cr = chunk.removeprefix(b"\n"), False
        for piece in chunk.splitlines(keepends=True):  # bytes are split at CR LF, LF and CR alone
            pieces.append(piece)
            if piece.endswith((b"\r", b"\n")):
                line = b"".join(pieces).rstrip(b"\r\n").decode(errors="replace")
                yield line.removeprefix(_BOM) if first else line
                first, pieces = False, []
            after_cr = piece.endswith(b"\r")
