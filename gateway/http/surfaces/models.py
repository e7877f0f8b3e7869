"""`GET /v1/models` and `GET /v1/models/{model}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request

from fovea.budget import Budget
from fovea.errors import ServiceError
from fovea.pruner_spec import NO_PRUNING
from gateway.core.limits import check_takes_budget
from gateway.http.chat_questions import requested_alias
from gateway.http.client_errors import errors_for_client
from gateway.http.openapi import ERRORS
from gateway.http.schemas.models import ModelCard, ModelList
from gateway.http.state import GatewayState, state_of
from gateway.model_names import ModelAlias

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/models", responses={503: ERRORS[503]}, summary="List the model's names in OpenAI's format")
async def models(request: Request) -> ModelList:
    """Lists the served model, then the aliases of `--alias`."""
    state = state_of(request)
    return ModelList(data=[await _card(name, state) for name in (state.settings.model_name, *state.settings.alias)])


@router.get(
    "/v1/models/{model:path}",
    responses={404: ERRORS[404], 422: ERRORS[422], 503: ERRORS[503]},
    summary="Describe one of the model's names in OpenAI's format",
)
async def model(request: Request, model: str) -> ModelCard:
    """Describes the served model, or an alias of it, which need not be one that is listed."""
    return await _card(model, state_of(request))


async def _card(name: str, state: GatewayState) -> ModelCard:
    served_name = state.settings.model_name
    alias = requested_alias(name, state.settings)
    if alias is not None:
        with errors_for_client({"keep_tokens": "model"}):
            check_takes_budget(alias.pruner, Budget.of(alias.keep_tokens, None))
    pruning = await _pruning(alias, state)
    return ModelCard(
        id=name,
        created=state.started_at,
        root=served_name,
        parent=None if alias is None else served_name,
        max_model_len=(await state.llm.info()).max_model_len,
        pruner=pruning.pruner,
        keep_ratio=pruning.keep_ratio,
        keep_tokens=pruning.keep_tokens,
    )


@dataclass(frozen=True, slots=True)
class _Pruning:
    """Fields of a card."""

    pruner: str | None
    keep_ratio: float | None
    keep_tokens: int | Literal["auto"] | None


async def _pruning(alias: ModelAlias | None, state: GatewayState) -> _Pruning:
    """Pruner and budget of requests that name none. Questions without images are answered without the encoder service,
    so a name is described without it as well."""
    pruner, keep_ratio = state.settings.pruner or None, state.settings.keep_ratio
    keep_tokens = None if alias is None else alias.keep_tokens
    try:
        encoder = await state.encoder.info()
    except ServiceError:
        pass
    else:
        pruner, keep_ratio = pruner or encoder.default_pruner, keep_ratio or encoder.default_keep_ratio
    if alias is not None:
        pruner = alias.pruner
    if pruner == NO_PRUNING:
        keep_ratio = 1.0
    return _Pruning(pruner, None if keep_tokens is not None else keep_ratio, keep_tokens)
