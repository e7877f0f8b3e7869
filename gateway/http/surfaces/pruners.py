"""`GET /v1/pruners`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from gateway.http.schemas.pruners import PrunerList
from gateway.http.state import state_of

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/pruners", summary="List the pruners")
async def pruners(request: Request) -> PrunerList:
    """Lists the pruners with their parameters, and the defaults of this server."""
    state = state_of(request)
    settings = state.settings
    info, llm = await asyncio.gather(state.encoder.info(), state.llm.info())
    return PrunerList(
        pruners=[*info.pruners, *llm.pruners],
        default_pruner=settings.pruner or info.default_pruner,
        default_keep_ratio=settings.keep_ratio or info.default_keep_ratio,
        default_wire_dtype=settings.wire_dtype or info.default_wire_dtype,
    )
