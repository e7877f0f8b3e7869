"""The ASGI application: creates and closes all objects of the process."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI

from fovea import __version__, checkpoints
from fovea.api_keys.key_file import AcceptedKeys
from fovea.checkpoints.layouts import UnsupportedCheckpoint, checked_family
from fovea.checkpoints.text_towers import DEFAULT_TEXT_TOWERS
from fovea.rpc.channel import Access
from gateway import metrics
from gateway.access.client_limits import ClientLimiter
from gateway.cache.base import Cache
from gateway.cache.memory import MemoryCache
from gateway.cache.value_keys import ValueKeys
from gateway.clients.encoder import EncoderClient
from gateway.clients.llm import LLMClient
from gateway.core.answer_service import AnswerService
from gateway.core.answer_store import AnswerStore
from gateway.core.limits import warn_of_family_limits
from gateway.core.pixel_shares import PixelShares
from gateway.core.planner import Planner
from gateway.core.stage_times import StageTimes
from gateway.core.text_generator import TextGenerator
from gateway.core.visual_token_store import VisualTokenStore
from gateway.http import surfaces
from gateway.http.admission import Admission
from gateway.http.body_arrival import BodyArrivals
from gateway.http.drain import Drain
from gateway.http.error_handlers import install_error_handlers
from gateway.http.explanation_renderer import ExplanationRenderer
from gateway.http.middleware import add_middleware
from gateway.http.openapi import declare_api_keys
from gateway.http.state import GatewayState
from gateway.media.fetch import MediaFetcher
from gateway.media.loader import MediaLimits, MediaLoader
from gateway.settings import GatewaySettings
from gateway.tokenization.tokenizers import PromptTokenizer, TextTowerTokenizer, TokenizerFiles

if TYPE_CHECKING:
    from gateway.cache.redis_client import RedisClient

__all__ = ["create_app"]

log = logging.getLogger("gateway")


def _redis(settings: GatewaySettings) -> RedisClient | None:
    url = settings.redis_url.get_secret_value()
    if not url:
        return None
    # The package redis takes a tenth of the gateway's start, and brings OpenTelemetry's SDK.
    from gateway.cache.redis_client import RedisClient
    from gateway.cache.redis_connection import RedisAccess

    return RedisClient(RedisAccess(url, settings.redis_password_file, settings.redis_tls_ca))


def _cache(settings: GatewaySettings, redis: RedisClient | None) -> Cache:
    if redis is not None:
        from gateway.cache.redis import RedisCache  # see `_redis`

        return RedisCache(redis, _value_keys(settings), ttl_s=settings.cache_ttl_s)
    return MemoryCache(
        answer_bytes=settings.answer_cache_bytes,
        visual_token_bytes=settings.visual_token_cache_bytes,
        ttl_s=settings.cache_ttl_s,
    )


def _value_keys(settings: GatewaySettings) -> ValueKeys:
    if settings.cache_key_file:
        return ValueKeys.from_file(settings.cache_key_file)
    log.warning(
        "without --cache-key-file, cached values in redis are signed with a key of this process: they are shared with"
        " no other gateway and are lost at a restart"
    )
    return ValueKeys.of_this_process()


def _planner(settings: GatewaySettings) -> Planner:
    model = checkpoints.resolve(settings.model, files=TokenizerFiles, revision=settings.revision)
    family = checked_family(model)
    if family not in DEFAULT_TEXT_TOWERS:
        raise UnsupportedCheckpoint(checkpoints.shown_name(model), f"it is of family {family!r}")
    prompt_tokenizer = PromptTokenizer(model)
    name = settings.text_tower or DEFAULT_TEXT_TOWERS[family]
    if name is None:
        return Planner(settings, prompt_tokenizer, None)
    text_tower = checkpoints.resolve(name, files=TokenizerFiles)
    return Planner(settings, prompt_tokenizer, TextTowerTokenizer(text_tower))


def _encoder_access(settings: GatewaySettings) -> Access:
    return Access.from_files(
        ca=settings.encoder_tls_ca,
        cert=settings.encoder_tls_cert,
        key=settings.encoder_tls_key,
        server_name=settings.encoder_server_name,
        token_file=settings.encoder_token_file,
    )


def _llm_access(settings: GatewaySettings) -> Access:
    return Access.from_files(
        ca=settings.llm_tls_ca,
        cert=settings.llm_tls_cert,
        key=settings.llm_tls_key,
        server_name=settings.llm_server_name,
        token_file=settings.llm_token_file,
    )


def _state(
    settings: GatewaySettings,
    planner: Planner,
    cache: Cache,
    redis: RedisClient | None,
    encoder: EncoderClient,
    llm: LLMClient,
    limiter: ClientLimiter,
    running: Admission,
    drain: Drain,
) -> GatewayState:
    outage_timeout_s = settings.patience_s
    return GatewayState(
        settings=settings,
        answers=AnswerService(
            planner,
            encoder=encoder,
            llm=llm,
            answers=AnswerStore(cache),
            visual_tokens=VisualTokenStore(
                encoder, cache, pixels=PixelShares(settings.max_pixels_in_flight), outage_timeout_s=outage_timeout_s
            ),
            generator=TextGenerator(llm, outage_timeout_s=outage_timeout_s),
            stage_times=StageTimes(),
        ),
        planner=planner,
        cache=cache,
        redis=redis,
        encoder=encoder,
        llm=llm,
        media_loader=MediaLoader(
            MediaFetcher(settings.fetch_hosts),
            MediaLimits(
                settings.max_image_pixels, settings.max_image_bytes, settings.max_video_bytes, settings.max_body_bytes
            ),
        ),
        renderer=ExplanationRenderer(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        limiter=limiter,
        running=running,
        bodies=BodyArrivals(settings.max_concurrent_bodies, settings.body_timeout_s, settings.min_body_rate),
        drain=drain,
        started_at=int(time.time()),
    )


def create_app(settings: GatewaySettings) -> FastAPI:
    """The gateway as an ASGI application. It starts while the services are down; requests then fail.

    Raises:
        FileNotFoundError: A checkpoint, or its tokenizer, chat template or configuration, is missing.
        ValueError: The checkpoint's family or layout is not supported, or its template or the Redis URL is invalid.
        CredentialsError: A certificate, key, token, password or API key file cannot be used.
    """
    planner, redis, drain = _planner(settings), _redis(settings), Drain()
    cache, limiter = _cache(settings, redis), ClientLimiter(redis)
    keys = AcceptedKeys(settings.keys_file) if settings.keys_file else None
    encoder_access, llm_access = _encoder_access(settings), _llm_access(settings)
    running = Admission(settings.max_concurrent_requests, "answers in progress")
    metrics.ANSWERS_RUNNING.set_function(lambda: running.num_admitted)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        max_bytes = settings.max_message_bytes
        encoder = EncoderClient(
            settings.encoder,
            max_message_bytes=max_bytes,
            access=encoder_access,
            on_first_info=partial(warn_of_family_limits, settings),
        )
        llm = LLMClient(settings.llm, max_message_bytes=max_bytes, access=llm_access)
        state = app.state.gateway = _state(settings, planner, cache, redis, encoder, llm, limiter, running, drain)
        yield
        await state.close()

    app = FastAPI(
        title="Fovea",
        version=__version__,
        description="Answers questions about images, with only the visual tokens that matter.",
        lifespan=lifespan,
        docs_url=None,  # replaced by gateway.http.surfaces.docs_page: FastAPI's pages load scripts from other hosts
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the gateway has its own, see fovea.tracing
        redirect_slashes=False,  # a redirect would repeat the client's Host header
    )
    app.state.drain = drain
    routers = list(surfaces.routers())
    for router in routers:  # not `include_router`: for routers without options it only adds a search for each request
        app.router.routes.extend(router.routes)
    install_error_handlers(app)
    if keys is not None:
        declare_api_keys(app)
    add_middleware(app, settings, keys, routes=[route for router in routers for route in router.routes])
    return app
