"""Server-sent events as the HTML standard reads them.

Lines end with CR LF, LF or CR alone. Python's `str.splitlines`, which HTTP clients like to use, also splits at six
other characters that an answer may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["events"]

_BOM = "\ufeff"


def events(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Names and data of the events in a body.

    Args:
        chunks: The body, cut anywhere.

    Yields:
        (name, data) of each event that has data; an event without a name is a `message`.
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
        for part in chunk.splitlines(keepends=True):  # of bytes: at CR LF, LF and CR alone
            pieces.append(part)
            if part.endswith((b"\r", b"\n")):
                line = b"".join(pieces).rstrip(b"\r\n").decode(errors="replace")
                yield line.removeprefix(_BOM) if first else line
                first, pieces, after_cr = False, [], part.endswith(b"\r")
