"""Parsing of multipart/form-data bodies, with limits that are checked while the body is read."""

from __future__ import annotations

import re
from collections import defaultdict
from io import BytesIO
from typing import Any, Final

from fastapi import Request
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from fovea.errors import InvalidRequest, MalformedRequest, UnsupportedMedia
from gateway.http.json_body import json_object, json_value
from gateway.http.request_fields import FILE_FIELDS, Uploads
from gateway.media.inputs import MediaInput

__all__ = ["read_form"]

_MAX_FIELDS: Final = 64
_MAX_NAME_CHARS: Final = 80
_ENCODING_HEADERS: Final = ("Content-Transfer-Encoding", "Content-Encoding")
_UNENCODED: Final = ("7bit", "8bit", "binary", "identity")
_NO_BOUNDARY: Final = "its Content-Type has no boundary; leave that header to the client"
_INVALID: Final = "it is not multipart/form-data with the boundary of its Content-Type"
_ASCII_SUPERSETS: Final = re.compile(r"(us-)?ascii|iso-8859-\d+|latin-?1|windows-125\d", re.IGNORECASE)


async def read_form(request: Request, boundary: str, *, max_images: int) -> tuple[dict[str, Any], Uploads]:
    """The text fields of a form, and its files.

    Args:
        request: Request whose body is still unread, and bounded in size.
        boundary: Boundary of its Content-Type; empty for none.
        max_images: Most images, files and URLs together; reading ends at the first one beyond.

    Raises:
        MalformedRequest: The body is not a complete form, or has too many fields.
        UnsupportedMedia: A part has a transfer encoding, or a charset other than UTF-8.
        InvalidRequest: A file in a field that accepts none, or too many files.
    """
    if not boundary:
        raise _unreadable(_NO_BOUNDARY)
    form = _Form(max_images)
    try:
        # As Latin-1, headers of any bytes can be read; the parser bounds their number and size.
        parser = PushMultipartParser(boundary.encode("latin-1"), header_charset="latin-1")
        async for chunk in request.stream():
            for event in parser.parse(chunk) if chunk else ():
                if event is None:
                    form.end()
                elif isinstance(event, MultipartSegment):
                    form.begin(event)
                else:
                    form.content.write(event)
    except MultipartError as error:
        raise _unreadable(_INVALID) from error
    try:
        parser.close()
    except MultipartError as error:
        if form.is_empty:
            raise _unreadable(_INVALID) from error
        raise MalformedRequest("the form ends before its closing boundary") from error
    return form.fields(), form.uploads()


class _Form:
    """A form that is being read, part by part.

    Args:
        max_images: Most images.

    Attributes:
        content: Content of the current part.
    """

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._num_images = self._num_videos = self._num_fields = 0
        self._name = ""
        self._part: MultipartSegment | None = None
        self._is_file = False  # the current part
        self.content = BytesIO()
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._files: dict[str, list[bytes]] = defaultdict(list)

    @property
    def is_empty(self) -> bool:
        """Whether no part has begun."""
        return self._part is None

    def begin(self, part: MultipartSegment) -> None:
        """Begins a part, whose headers have been read."""
        name = part.name
        if not name:
            raise _unreadable("a field has no name")
        if not name.isascii():
            name = name.encode("latin-1").decode(errors="replace")
        if len(name) > _MAX_NAME_CHARS:
            raise InvalidRequest(f"there is no field {name[:_MAX_NAME_CHARS]!r}...")
        for header, value in part.headerlist:
            if header in _ENCODING_HEADERS and value.strip().lower() not in _UNENCODED:
                raise UnsupportedMedia(
                    f"{name} is sent in an encoding; it is accepted as it is (8bit or binary)", param=name
                )
        self._name, self._part, self.content = name, part, BytesIO()
        self._is_file = part.filename is not None
        if name == "images" or (name == "image" and self._is_file):
            self._count_image(name)
        elif self._is_file:
            self._count_file(name)
        else:
            self._count_field()

    def _count_image(self, name: str) -> None:
        self._num_images += 1
        if self._num_images > self._max_images:
            raise InvalidRequest(
                f"at least {self._num_images} images; up to {self._max_images} are accepted", param=name
            )

    def _count_file(self, name: str) -> None:
        if name not in FILE_FIELDS:
            raise InvalidRequest(f"files are accepted in the fields {', '.join(FILE_FIELDS)}", param=name)
        self._num_videos += 1
        if self._num_videos > 1:
            raise InvalidRequest(f"{name} was given {self._num_videos} times; once is accepted", param=name)

    def _count_field(self) -> None:
        self._num_fields += 1
        if self._num_fields > _MAX_FIELDS:
            raise MalformedRequest(f"the form has more than the {_MAX_FIELDS} fields accepted, files apart")

    def end(self) -> None:
        """Ends the current part, whose content is complete."""
        assert self._part is not None
        content = self.content.getvalue()
        if self._is_file:
            self._files[self._name].append(content)
        else:
            self._texts[self._name].append(_text(self._part, self._name, content))

    def fields(self) -> dict[str, Any]:
        """Values of the fields that are no files."""
        return {name: _value(name, texts) for name, texts in self._texts.items()}

    def uploads(self) -> Uploads:
        """The files."""
        uploads: Uploads = {}
        for name, files in self._files.items():
            if name in self._texts:
                raise InvalidRequest(f"{name} was given twice, as a file and as a field", param=name)
            is_one = name == "video" or (name == "image" and len(files) == 1)
            uploads[name] = [MediaInput(name if is_one else f"{name}.{i}", file) for i, file in enumerate(files)]
        return uploads


def _unreadable(reason: str) -> MalformedRequest:
    return MalformedRequest(f"the form cannot be read: {reason}")


def _text(part: MultipartSegment, name: str, content: bytes) -> str:
    """The text of a part. It is refused if it is not UTF-8, or if the part says that it is in another charset."""
    charset = part.charset
    if charset is None:  # one that cannot be read is another charset
        charset = "utf-8" if "charset" not in part.header("Content-Type", "").lower() else ""
    if charset.lower() not in ("utf-8", "utf8") and not (_ASCII_SUPERSETS.fullmatch(charset) and content.isascii()):
        raise UnsupportedMedia(f"the charset of {name} is not utf-8, the only one accepted", param=name)
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _unreadable("a field is not UTF-8 text") from None


def _value(name: str, texts: list[str]) -> Any:
    if name in ("stop", "images"):
        return texts
    if len(texts) != 1:
        raise InvalidRequest(f"{name} was given {len(texts)} times; once is accepted", param=name)
    if name in ("pruner_params", "llm_pruner"):
        return json_object(texts[0].encode(), name, name)
    return json_value(texts[0].encode(), name, name) if name == "messages" else texts[0]
