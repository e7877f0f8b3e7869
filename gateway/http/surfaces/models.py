"""`GET /v1/models` and `GET /v1/models/{model}`."""

from __future__ import annotations

from fastapi import APIRouter, Request

from gateway.http.chat_questions import requested_alias
from gateway.http.openapi import ERRORS
from gateway.http.schemas.models import ModelCard, ModelList
from gateway.http.state import GatewayState, state_of

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/models", responses={503: ERRORS[503]}, summary="List the model's names in OpenAI's format")
async def models(request: Request) -> ModelList:
    """Lists the served model, then the aliases of `--alias`."""
    state = state_of(request)
    return ModelList(data=[await _card(name, state) for name in (state.settings.model_name, *state.settings.alias)])


@router.get(
    "/v1/models/{model:path}",
    responses={404: ERRORS[404], 503: ERRORS[503]},
    summary="Describe one of the model's names in OpenAI's format",
)
async def model(request: Request, model: str) -> ModelCard:
    """Describes the served model, or an alias of it, which need not be one that is listed."""
    return await _card(model, state_of(request))


async def _card(name: str, state: GatewayState) -> ModelCard:
    served_name = state.settings.model_name
    is_alias = requested_alias(name, state.settings) is not None
    return ModelCard(
        id=name,
        created=state.started_at,
        root=served_name,
        parent=served_name if is_alias else None,
        max_model_len=(await state.llm.info()).max_model_len,
    )
