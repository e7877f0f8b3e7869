"""`POST /v1/explain`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.api.dependencies import get_admission, get_body_admission, get_drain, get_pipeline
from gateway.api.disconnect import until_disconnect
from gateway.api.openapi import ERRORS, request_body
from gateway.api.request_body import read_request
from gateway.schemas.explain import ExplainRequest, ExplainResponse

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
    "description": "A drawing, or with `format` json the numbers.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


@router.post(
    "/v1/explain",
    response_class=Response,
    responses={200: _OK, **ERRORS},
    openapi_extra=request_body(ExplainRequest, _EXAMPLE),
    summary="Draw which parts of pictures are kept for a question, and why",
)
async def explain(request: Request) -> Response:
    """The body is that of `/v1/answer` without what concerns the answer. The drawing shows what became of each patch
    beside the task map and the saliency map, or with `maps` four activation maps; several pictures one below the other.
    Videos, and pictures that the model cuts into tiles, are explained with `format` json alone. Admission is shared
    with `/v1/answer`.
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
            made = await until_disconnect(request.receive, pipeline.explain(parsed, uploads, arrived=arrived))
        if isinstance(made, ExplainResponse):
            return JSONResponse(made.model_dump(exclude_none=True))
        return Response(made, media_type="image/png")
    raise AssertionError("unreachable: the scope swallows no exception")
