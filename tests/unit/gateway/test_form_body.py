"""Forms are read alike, however the network cuts them into pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from gateway.http.form_body import read_form
from gateway.media.inputs import MediaInput

IMAGE = b"\x89PNG\r\n--b\r\n-\r\n--"  # all but a boundary: that is --bound
FORM = (
    b'--bound\r\nContent-Disposition: form-data; name="question"\r\n\r\nO\xc3\xb9?\r\n'
    b'--bound\r\nContent-Disposition: form-data; name="stop"\r\n\r\n.\r\n'
    b'--bound\r\nContent-Disposition: form-data; name="stop"\r\n\r\n\r\n'
    b'--bound\r\nContent-Disposition: form-data; name="images"; filename="a;b.png"\r\nContent-Type: image/png\r\n\r\n'
    + IMAGE
    + b'\r\n--bound\r\nContent-Disposition: form-data; name="images"; filename=""\r\n\r\n\r\n--bound--\r\n'
)


def read(pieces: Sequence[bytes]) -> object:
    """Fields and files of a form that arrives in these pieces."""
    left = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    return asyncio.run(read_form(request, "bound", max_images=2))


EXPECTED = (
    {"question": "Où?", "stop": [".", ""]},
    {"images": [MediaInput("images.0", IMAGE), MediaInput("images.1", b"")]},
)


@given(st.lists(st.integers(0, len(FORM)), max_size=12))
def test_a_form_is_the_same_in_any_pieces(cuts: list[int]) -> None:
    ends = [*sorted(cuts), len(FORM)]
    pieces = [FORM[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    assert read(pieces) == EXPECTED


def test_a_form_may_arrive_byte_by_byte() -> None:
    assert read([FORM[i : i + 1] for i in range(len(FORM))]) == EXPECTED


def test_what_follows_the_closing_boundary_is_ignored() -> None:
    assert read([FORM[:-2], b"\r\n", b"epilogue", b"--bound\r\n"]) == EXPECTED
