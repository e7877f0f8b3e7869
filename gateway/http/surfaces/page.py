"""`/`: page that asks questions about images, and shows which visual tokens are kept. Its files are in the package."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

__all__ = ["router"]

router = APIRouter()

_FOLDER: Final = Path(__file__).parents[1] / "page"
_START: Final = "index.html"
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
}
_HEADERS: Final = {
    # Chosen images are shown by blob URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    # A browser asks for each file again, so that it never mixes files of two versions.
    "Cache-Control": "no-cache",
}


def _endpoint(file: Path) -> Callable[[Request], Awaitable[Response]]:
    """Endpoint of a file, which is read once."""
    data = file.read_bytes()
    headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"'}
    media_type = _MEDIA_TYPES[file.suffix]

    async def endpoint(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(data, media_type=media_type, headers=headers)

    return endpoint


# Each file has a route of its own, so that no path of a request reaches the file system.
for _file in sorted(path for path in _FOLDER.rglob("*") if path.suffix in _MEDIA_TYPES):
    _name = _file.relative_to(_FOLDER).as_posix()
    router.add_route("/" if _name == _START else f"/page/{_name}", _endpoint(_file), include_in_schema=False)
