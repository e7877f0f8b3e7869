"""Form of a question and its media."""

from __future__ import annotations

import base64
import io
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

__all__ = [
    "MAX_STREAM_BYTES",
    "Medium",
    "Message",
    "Part",
    "UnreadableMedium",
    "form_parts",
    "question_fields",
    "read_file",
    "read_stream",
    "user_message",
]

Medium = Path | bytes | str
"""An image or a video: path of a file, content of a file, or a URL (https: or data:) that the gateway resolves."""

Message = dict[str, Any]
"""Message of a chat history: `role` and `content`, in OpenAI's format."""

Part = tuple[str, tuple[str | None, BinaryIO | bytes]]
"""Part of a form: field name, file name (None for a text), and content."""

MAX_STREAM_BYTES: Final = 256 * 2**20
"""Most bytes of a pipe, which is held in memory; files on a disk are not."""


class UnreadableMedium(ValueError):
    """A file that cannot be read, or a text that cannot be sent. The message is for the user."""


def read_stream(stream: BinaryIO, name: str) -> bytes:
    """All bytes of a pipe.

    Args:
        stream: pipe.
        name: name of the pipe for the error.

    Raises:
        UnreadableMedium: the pipe has more than `MAX_STREAM_BYTES`, or none.
    """
    data = stream.read(MAX_STREAM_BYTES + 1)
    if len(data) > MAX_STREAM_BYTES:
        raise UnreadableMedium(f"{name} has more than the {MAX_STREAM_BYTES:,} bytes accepted from a pipe")
    if not data:
        raise UnreadableMedium(f"{name} is empty")
    return data


def question_fields(
    fields: Mapping[str, Any], question: str | None, messages: Sequence[Message] | None
) -> dict[str, Any]:
    """Fields of a request with its question, or with the chat history that ends with it."""
    return {**fields, "question": question, "messages": None if messages is None else list(messages)}


def user_message(text: str, images: Sequence[Medium] = ()) -> Message:
    """Message of the user with images, for a chat history. Files are read here, once.

    Args:
        text: text of the message.
        images: images of the message, in their order.

    Raises:
        UnreadableMedium: a file cannot be read.
    """
    urls = [image if isinstance(image, str) else _data_url(image) for image in images]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


@contextmanager
def form_parts(
    images: Medium | Sequence[Medium], video: Medium | None, fields: Mapping[str, Any]
) -> Iterator[list[Part]]:
    """Context manager with the parts of the form, whose files stay open inside the context.

    Args:
        images: one image, or several in their order.
        video: video, or None.
        fields: further fields of the request; None values are left out, values other than texts are sent as JSON.

    Raises:
        UnreadableMedium: a file cannot be read, or a text is not valid Unicode.
    """
    image_list = [images] if isinstance(images, Medium) else images
    with ExitStack() as opened:
        parts = [
            _text(name, part) for name, value in fields.items() if value is not None for part in _texts(name, value)
        ]
        # A form has images as files or as URLs. With one URL all images are sent as URLs, which keeps their order.
        files = [image for image in image_list if not isinstance(image, str)]
        if len(files) < len(image_list):
            parts += [_text("images", image if isinstance(image, str) else _data_url(image)) for image in image_list]
        else:
            parts += [_file("image", image, opened) for image in files]
        if video is not None:
            parts.append(_text("video", video) if isinstance(video, str) else _file("video", video, opened))
        yield parts


def _texts(name: str, value: Any) -> list[str]:
    """Texts of a field: `stop` may occur several times, other values are one text or JSON."""
    if name == "stop" and not isinstance(value, str):
        return list(value)
    return [value if isinstance(value, str) else json.dumps(value)]


def _text(name: str, value: str) -> Part:
    try:
        return name, (None, value.encode())
    except UnicodeEncodeError as error:
        raise UnreadableMedium(f"the field {name} is not valid UTF-8 text") from error


def _file(name: str, medium: Path | bytes, opened: ExitStack) -> Part:
    if isinstance(medium, bytes):
        return name, (name, medium)
    # The file's name stays on this machine; its suffix gives the content type.
    suffix = medium.suffix if medium.suffix.isascii() else ""
    return name, (f"{name}{suffix}", opened.enter_context(_open(medium)))


def read_file(path: Path) -> bytes:
    """Content of a file.

    Raises:
        UnreadableMedium: the file cannot be read.
    """
    with _open(path) as file:
        return file.read()


def _open(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
        if stat.S_ISREG(path.stat().st_mode):
            return file
        with file:  # a named pipe, whose size is unknown before its end
            return io.BytesIO(read_stream(file, str(path)))
    except OSError as error:
        raise UnreadableMedium(f"cannot read {path}: {error.strerror}") from error


def _data_url(medium: Path | bytes) -> str:
    medium = read_file(medium) if isinstance(medium, Path) else medium
    return f"data:image/png;base64,{base64.b64encode(medium).decode()}"
