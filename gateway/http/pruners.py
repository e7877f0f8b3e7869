"""`GET /v1/pruners`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from gateway.http.dependencies import get_pipeline
from gateway.http.schemas.pruners import PrunerList

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/pruners", summary="List the pruners")
async def pruners(request: Request) -> PrunerList:
    """Lists the pruners with their parameters, and the defaults of this server."""
    pipeline = get_pipeline(request)
    settings = pipeline.settings
    info, llm = await asyncio.gather(pipeline.encoder.info(), pipeline.llm.info())
    return PrunerList(
        pruners=[*info.pruners, *llm.pruners],
        default_pruner=settings.pruner or info.default_pruner,
        default_keep_ratio=settings.keep_ratio or info.default_keep_ratio,
        default_wire_dtype=settings.wire_dtype or info.default_wire_dtype,
    )
