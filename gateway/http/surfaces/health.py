"""`/healthz`, also as `/health`, and `/readyz`."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from fovea.errors import ServiceError, Unavailable
from fovea.wire.formats import names_accepted
from gateway.clients.base import ServiceClient
from gateway.clients.encoder import EncoderInfo
from gateway.clients.llm import LLMInfo
from gateway.http.errors import error_body, error_headers
from gateway.http.schemas.health import Health, Readiness
from gateway.http.state import GatewayState, state_of
from gateway.settings import GatewaySettings

__all__ = ["router"]

router = APIRouter()

_CHECK_TIMEOUT_S: Final = 2.0

InfoT = TypeVar("InfoT", EncoderInfo, LLMInfo)


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="Liveness, under the path of OpenAI-compatible servers")
@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Liveness")
async def healthz() -> Health:
    """Reports that the process responds. The services are not checked."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model_exclude_none=True, responses={503: {"model": Readiness}}, summary="Readiness")
async def readyz(request: Request) -> Readiness:
    """Checks that encoder service and LLM service are serving, accept this gateway's bearer token, have the same
    checkpoint and wire basis, and are of the family of this gateway's checkpoint, with its ids of the image token and,
    for models that take videos, of the video token; and that the gateway has a text tower if the encoder needs one. The
    checks `pruner` and `wire_dtype`, of a gateway that sets these defaults, tell whether the encoder service offers
    them. The check `redis`, of a gateway with Redis, does not count: answers are computed again without it.

    Differences of tokenizer, chat template or text tower within a family are not detected: the services report
    fingerprints of weights, which the gateway does not have.
    """
    state = state_of(request)
    checks, redis = await asyncio.gather(_checks(state), _redis(state))
    missing = [f"{name} is {state}" for name, state in checks.items() if state != "ok"]
    checks |= redis
    if not missing:
        return Readiness(status="ready", checks=checks)
    error = Unavailable(f"not ready: {'; '.join(missing)}", retry_after_s=1.0)
    body = Readiness(status="not_ready", checks=checks, error=error_body(error).error)
    return JSONResponse(body.model_dump(), error.http_status, headers=error_headers(error))  # type: ignore[return-value]


async def _checks(state: GatewayState) -> dict[str, str]:
    (encoder_state, encoder), (llm_state, llm) = await asyncio.gather(_service(state.encoder), _service(state.llm))
    checks = {"encoder": encoder_state, "llm": llm_state}
    if encoder_state == llm_state == "ok":
        checks["fingerprints"] = _agreement(state, encoder, llm)
    return checks | _defaults(state.settings, encoder)


async def _service(client: ServiceClient[InfoT]) -> tuple[str, InfoT | None]:
    """State of a service, and its info; None while the info is unknown or of no use, because the service is not ok.

    A service answers health checks without a bearer token, and nothing else.
    """
    if not await client.serving(_CHECK_TIMEOUT_S):
        return "not serving", None
    try:
        info = await client.info()
    except ServiceError:
        info = None
    if client.refuses_token:
        return "not accepting the bearer token of this gateway", None
    return "ok", info


def _defaults(settings: GatewaySettings, encoder: EncoderInfo | None) -> dict[str, str]:
    """Checks of the defaults that this gateway sets; none while the encoder's info is unknown.

    With a default that the encoder service refuses, every question that names nothing else fails.
    """
    if encoder is None:
        return {}
    checks = {}
    if settings.pruner:
        offered = [pruner.name for pruner in encoder.pruners]
        checks["pruner"] = "ok"
        if settings.pruner not in offered:
            checks["pruner"] = (
                f"not offered by the encoder service: --pruner {settings.pruner:.80} (GATEWAY_PRUNER); accepted are"
                f" {', '.join(offered)}"
            )
    if settings.wire_dtype:
        accepted = names_accepted(has_basis=bool(encoder.wire_basis))
        checks["wire_dtype"] = "ok"
        if settings.wire_dtype not in accepted:
            checks["wire_dtype"] = (
                f"not offered by the encoder service, which has no wire basis: --wire-dtype {settings.wire_dtype}"
                f" (GATEWAY_WIRE_DTYPE); accepted are {', '.join(accepted)}"
            )
    return checks


async def _redis(state: GatewayState) -> dict[str, str]:
    """The check `redis`; none of a gateway without Redis."""
    if state.redis is None:
        return {}
    return {"redis": "ok" if await state.redis.answers() else "Redis does not answer; nothing is cached until it does"}


def _agreement(state: GatewayState, encoder: EncoderInfo | None, llm: LLMInfo | None) -> str:
    if encoder is None or llm is None:
        return "unknown: a service did not report its checkpoint"
    if encoder.fingerprint != llm.fingerprint:
        return "different: encoder and LLM service serve different checkpoints"
    if encoder.wire_basis not in ("", llm.wire_basis):
        return "different: encoder and LLM service have different wire bases"
    tokenizer = state.planner.prompt_tokenizer
    if (
        encoder.family != tokenizer.family  # families of Qwen have the same tokens, and other chat templates
        or llm.image_token_id != tokenizer.image_token_id
        or llm.video_token_id not in (None, tokenizer.video_token_id)
    ):
        return "different: the gateway tokenizes for another checkpoint than the services serve"
    if not state.planner.can_tokenize_for(encoder):
        return "different: the encoder reads questions through a text tower, and the gateway has none"
    return "ok"
