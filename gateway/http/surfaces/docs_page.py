"""`/docs`: Swagger UI, served from an installed package, so that browsers load nothing from other hosts."""

from __future__ import annotations

from importlib import resources
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, Response

__all__ = ["router"]

router = APIRouter()

# URLs are relative, because a proxy may serve the gateway under a prefix.
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fovea API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
_HEADERS: Final = {
    # Swagger UI uses inline styles and data URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_STATIC: Final = resources.files("fastapi_offline") / "static"


async def _page(request: Request) -> Response:
    return HTMLResponse(_PAGE, headers=_HEADERS)


async def _start(request: Request) -> Response:
    return Response(_START, media_type="text/javascript", headers=_HEADERS)


async def _bundle(request: Request) -> Response:
    return FileResponse(str(_STATIC / "swagger-ui-bundle.js"), media_type="text/javascript", headers=_HEADERS)


async def _style(request: Request) -> Response:
    return FileResponse(str(_STATIC / "swagger-ui.css"), media_type="text/css", headers=_HEADERS)


for _path, _endpoint in {
    "/docs": _page,
    "/docs/start.js": _start,
    "/docs/swagger-ui-bundle.js": _bundle,
    "/docs/swagger-ui.css": _style,
}.items():
    router.add_route(_path, _endpoint, include_in_schema=False)
