"""`POST /v1/explain`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.core.deadlines import until
from gateway.http.activation_maps import activation_maps
from gateway.http.admitted import Admitted, admitted
from gateway.http.openapi import ERRORS, EXAMPLE_IMAGE, request_body
from gateway.http.questions import reader_of
from gateway.http.request_route import RequestRoute
from gateway.http.responses import explain_response
from gateway.http.schemas.explain import ExplainRequest, ExplainResponse

__all__ = ["router"]

router = APIRouter(route_class=RequestRoute)

_EXAMPLE: Final = {
    "question": "What colour is the large circle?",
    "image": EXAMPLE_IMAGE,
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
    return await admitted(request, reader_of(ExplainRequest), _respond)


async def _respond(admission: Admitted[ExplainRequest]) -> Response:
    request, question, state = admission.request, admission.question, admission.state
    question = replace(question, encode=replace(question.encode, explain=True))
    async with until(question.deadline):
        encoded = await state.answers.explain(question)
        admission.audit.add_explanation(encoded)
        maps = None
        if request.maps:
            maps = await activation_maps(question, encoded, state, layer=request.cross_attention_layer)
        response = explain_response(encoded, maps, model=state.settings.model_name)
        if request.format == "json":
            return JSONResponse(response.model_dump(exclude_none=True))
        images = [image.data for image in question.encode.images]
        drawing = await state.renderer.render_png(images, question.text.text, response)
        return Response(drawing, media_type="image/png")
