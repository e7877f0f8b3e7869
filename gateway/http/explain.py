"""`POST /v1/explain`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.http.dependencies import get_admission, get_body_admission, get_drain, get_pipeline
from gateway.http.disconnect import until_disconnect
from gateway.http.openapi import ERRORS, request_body
from gateway.http.request_body import read_request
from gateway.http.schemas.explain import ExplainRequest, ExplainResponse

__all__ = ["router"]

router = APIRouter()

_EXAMPLE: Final = {
    "question": "What colour is the large circle?",
    "image": "data:image/png;base64,iVBORw0KGgo...",
    "pruner": "desap",
    "keep_ratio": 0.111,
}
_OK: Final[dict[str, Any]] = {
    "model": ExplainResponse,
    "description": "A drawing; with `format` `json`, the numbers.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


@router.post(
    "/v1/explain",
    response_class=Response,
    responses={200: _OK, **ERRORS},
    openapi_extra=request_body(ExplainRequest, _EXAMPLE),
    summary="Draw which patches of images are kept for a question, and why",
)
async def explain(request: Request) -> Response:
    """Explains which visual tokens are kept for a question. The body has the fields of `/v1/answer` about question,
    media, pruner and budget.

    The drawing shows which patches are kept, merged and dropped, beside the task map and the saliency map; with `maps`,
    four activation maps. Several images are drawn one below the other. Videos, and images that the model cuts into
    tiles, are explained with `format` `json` only. The limit on concurrent requests is shared with `/v1/answer`.
    """
    arrived = asyncio.get_running_loop().time()
    pipeline, admission = get_pipeline(request), get_admission(request)
    settings = pipeline.settings
    async with get_drain(request).scope():
        admission.check()
        with get_body_admission(request).permit():
            parsed, uploads = await read_request(
                request,
                ExplainRequest,
                timeout_s=settings.body_timeout_s,
                max_bytes=settings.max_body_bytes,
                max_images=settings.max_images,
            )
        with admission.permit():
            explained = await until_disconnect(request.receive, pipeline.explain(parsed, uploads, arrived=arrived))
        if isinstance(explained, ExplainResponse):
            return JSONResponse(explained.model_dump(exclude_none=True))
        return Response(explained, media_type="image/png")
    raise AssertionError("unreachable: the scope suppresses no exception")
