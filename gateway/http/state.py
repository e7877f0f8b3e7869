"""Objects of the application that endpoints share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import Request

from gateway.access.client_limits import ClientLimiter
from gateway.cache.base import Cache
from gateway.clients.encoder import EncoderClient
from gateway.clients.llm import LLMClient
from gateway.core.answer_service import AnswerService
from gateway.core.planner import Planner
from gateway.http.admission import Admission
from gateway.http.body_arrival import BodyArrivals
from gateway.http.drain import Drain
from gateway.http.explanation_renderer import ExplanationRenderer
from gateway.media.loader import MediaLoader
from gateway.settings import GatewaySettings

if TYPE_CHECKING:  # imports the package redis, which only --redis-url needs
    from gateway.cache.redis_client import RedisClient

__all__ = ["GatewayState", "state_of"]


@dataclass(frozen=True)
class GatewayState:
    """Objects of one gateway process.

    Attributes:
        settings: Settings of the gateway.
        answers: The core.
        planner: Planner of the core, for readiness.
        cache: Storage of cached answers and visual tokens.
        redis: Redis of the cache and the clients' limits, which the cache closes; None for none.
        encoder: Client of the encoder service.
        llm: Client of the LLM service.
        media_loader: Loader of images and videos.
        renderer: Renderer of explanations.
        limiter: Limits of each client.
        running: Admission of questions.
        bodies: Arrival of request bodies.
        drain: Switch that ends requests when the server stops.
        started_at: Unix time of the start in seconds.
    """

    settings: GatewaySettings
    answers: AnswerService
    planner: Planner
    cache: Cache
    redis: RedisClient | None
    encoder: EncoderClient
    llm: LLMClient
    media_loader: MediaLoader
    renderer: ExplanationRenderer
    limiter: ClientLimiter
    running: Admission
    bodies: BodyArrivals
    drain: Drain
    started_at: int

    async def close(self) -> None:
        """Cancels the work in progress, and closes connections, cache and worker processes."""
        await self.answers.close()
        await self.renderer.close()
        await asyncio.gather(self.encoder.close(), self.llm.close(), self.cache.close(), self.media_loader.close())


def state_of(request: Request) -> GatewayState:
    """The objects of this process."""
    return cast(GatewayState, request.app.state.gateway)
