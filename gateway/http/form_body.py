"""Parsing of multipart/form-data bodies, with limits that are checked while the body is read."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fovea.errors import InvalidRequest, MalformedRequest, UnsupportedMedia
from gateway.http.json_body import json_object, json_value
from gateway.http.request_fields import FILE_FIELDS, Uploads
from gateway.media.inputs import MediaInput

__all__ = ["read_form"]

_MAX_FIELDS: Final = 64
_MAX_NAME_CHARS: Final = 80
_ENCODING_HEADERS: Final = (b"content-transfer-encoding", b"content-encoding")
_UNENCODED: Final = ("7bit", "8bit", "binary", "identity")
_NO_UTF_8: Final = "a field is not UTF-8 text"
_INVALID: Final = "it is not multipart/form-data with the boundary of its Content-Type"
# Reasons by the texts of the parser.
_REASONS: Final = {
    _NO_UTF_8: _NO_UTF_8,
    "Missing boundary in multipart.": "its Content-Type has no boundary; leave that header to the client",
    'The Content-Disposition header field "name" must be provided.': "a field has no name",
}
_ASCII_SUPERSETS: Final = re.compile(r"(us-)?ascii|iso-8859-\d+|latin-?1|windows-125\d", re.IGNORECASE)


async def read_form(request: Request, *, max_bytes: int, max_images: int) -> tuple[dict[str, Any], Uploads]:
    """The text fields of a form, and its files.

    Args:
        request: Request whose body is still unread.
        max_bytes: Largest single field in bytes.
        max_images: Most images, files and URLs together; reading ends at the first one beyond.

    Raises:
        MalformedRequest: The body is not a complete form, or has too many fields.
        UnsupportedMedia: A part has a transfer encoding, or a charset other than UTF-8.
        InvalidRequest: A file in a field that accepts none, or too many files.
    """
    parser = _FormParser(request, max_bytes, max_images)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"the form cannot be read: {_REASONS.get(error.message, _INVALID)}") from error
    try:
        if not parser.complete:
            raise MalformedRequest("the form ends before its closing boundary")
        return await _form_fields(form)
    finally:
        parser.close()


class _FormParser(MultiPartParser):
    """Starlette's parser with checks of limits, charset and completeness.

    Starlette alone reads invalid UTF-8 as Latin-1, and accepts a truncated form.
    """

    complete = False

    def __init__(self, request: Request, max_bytes: int, max_images: int) -> None:
        super().__init__(
            request.headers, request.stream(), max_files=math.inf, max_fields=math.inf, max_part_size=max_bytes
        )
        self._max_images = max_images
        self._num_images = self._num_videos = self._num_fields = 0
        self._headers: dict[bytes, bytes] = {}  # of the current part

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        name, is_file = part.field_name, part.file is not None
        if len(name) > _MAX_NAME_CHARS:
            raise InvalidRequest(f"there is no field {name[:_MAX_NAME_CHARS]!r}...")
        self._headers = dict(part.item_headers)  # names in lower case; the last one of a name counts
        for header in _ENCODING_HEADERS:
            if header in self._headers and _text(self._headers[header]).lower() not in _UNENCODED:
                raise UnsupportedMedia(
                    f"{name} is sent in an encoding; it is accepted as it is (8bit or binary)", param=name
                )
        if name == "images" or (is_file and name == "image"):
            self._count_image(name)
        elif is_file:
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

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            self._check_text(bytes(self._current_part.data))
        super().on_part_end()

    def _check_text(self, data: bytes) -> None:
        charset = "utf-8"
        if content_type := _text(self._headers.get(b"content-type", b"")):
            _, options = parse_options_header(content_type)
            charset = options.get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in ("utf-8", "utf8") and not (_ASCII_SUPERSETS.fullmatch(charset) and data.isascii()):
            name = self._current_part.field_name
            raise UnsupportedMedia(f"the charset of {name} is not utf-8, the only one accepted", param=name)
        try:
            data.decode()
        except UnicodeDecodeError:
            raise MultiPartException(_NO_UTF_8) from None

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        """Deletes the files, including that of a truncated part."""
        for file in self._files_to_close_on_error:
            file.close()


def _text(header: bytes) -> str:
    return header.decode("latin-1").strip()


async def _form_fields(form: FormData) -> tuple[dict[str, Any], Uploads]:
    fields: dict[str, Any] = {}
    uploads: Uploads = {}
    for name in form:
        values = form.getlist(name)
        files = [value for value in values if isinstance(value, UploadFile)]
        texts = [value for value in values if isinstance(value, str)]
        if files and texts:
            raise InvalidRequest(f"{name} was given twice, as a file and as a field", param=name)
        if files:
            is_one = name == "video" or (name == "image" and len(files) == 1)
            uploads[name] = [
                MediaInput(name if is_one else f"{name}.{i}", await file.read()) for i, file in enumerate(files)
            ]
        else:
            fields[name] = _field(name, texts)
    return fields, uploads


def _field(name: str, texts: list[str]) -> Any:
    if name in ("stop", "images"):
        return texts
    if len(texts) != 1:
        raise InvalidRequest(f"{name} was given {len(texts)} times; once is accepted", param=name)
    if name in ("pruner_params", "llm_pruner"):
        return json_object(texts[0].encode(), name, name)
    return json_value(texts[0].encode(), name, name) if name == "messages" else texts[0]
