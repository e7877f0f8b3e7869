"""From settings to a running service: loads the model, serves until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from encoder_service import models
from encoder_service.engine.batching import Batcher
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.executor import EncoderExecutor
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.graphs.preparation import prepare
from encoder_service.media.decoding import MediaPool, media_pool
from encoder_service.media.video_limits import VideoLimits
from encoder_service.models.base import LoadOptions
from encoder_service.server.requests import check_defaults
from encoder_service.server.servicer import EncoderBatcher, EncoderServicer
from encoder_service.settings import EncoderSettings
from fovea.modeling.compute import set_threads
from fovea.processes import fork_server
from fovea.processes.cores import available_cores
from fovea.rpc.lifecycle import load_in_background, stop_signal, wait_unless_stopped
from fovea.rpc.load_metrics import report_load
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import encoder_pb2_grpc
from fovea.wire import basis_file
from fovea.wire.basis import WireBasis
from fovea.wire.basis_file import BasisError

__all__ = ["WORKER_MODULES", "serve"]

log = logging.getLogger("encoder_service")

_SERVICE = "fovea.v1.EncoderService"
WORKER_MODULES: Final = ("encoder_service.media.decoding",)
_WATCH_INTERVAL_S: Final = 0.5


def _load(settings: EncoderSettings) -> tuple[EncoderEngine, WireBasis | None]:
    model = models.load(
        settings.model,
        LoadOptions(
            text_tower=settings.text_tower,
            revision=settings.revision,
            device=settings.device,
            dtype=settings.dtype,
            attn_implementation=settings.attn_implementation,
            compile=settings.compile,
            reduces_jpeg=settings.jpeg_reduced_scale == "on",
        ),
    )
    check_defaults(settings, model)
    set_threads(settings.num_threads, model.num_parameters)  # before layers are compiled, which depend on it
    basis = basis_file.find(settings.wire_basis, settings.model, settings.revision, model.hidden_size)
    if settings.wire_dtype == "basis" and basis is None:
        raise BasisError("--wire-dtype basis needs a wire basis: --wire-basis, or wire.basis in the checkpoint")
    engine = EncoderEngine(
        model,
        FeatureCache(settings.feature_cache_bytes),
        max_batch_size=settings.max_batch_size,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        video_limits=VideoLimits(
            max_bytes=settings.max_video_bytes,
            max_frames=settings.max_video_frames,
            max_frame_pixels=settings.max_video_frame_pixels,
            max_pixels=settings.max_video_pixels,
            max_seconds=settings.max_video_seconds,
            timeout_s=settings.video_decode_timeout_s,
        ),
        run_pruner=prepare(model, settings),
    )
    return engine, basis


async def serve(settings: EncoderSettings) -> None:
    """Runs the service until SIGTERM or SIGINT, which end it at once while the model is being loaded.

    Raises:
        CheckpointError, FileNotFoundError, BasisError: The model or its wire basis cannot be loaded.
        BindError: The address is taken.
        CredentialsError: A certificate, key or bearer-token file cannot be used.
        WorkerDied: No process that decodes media can be started.
    """
    stop = stop_signal()
    fork_server.preload(*WORKER_MODULES)
    server, servicer = _build_server(settings)
    stopped = asyncio.create_task(stop.wait())
    try:
        await server.start()
        loading = load_in_background(lambda: _load(settings))
        log.info("port %d is open; loading the model", server.port)
        if not await wait_unless_stopped(loading, stopped):
            return
        engine, basis = loading.result()
        pool = media_pool(engine.decoder, size=settings.decode_workers or available_cores())
        async with contextlib.AsyncExitStack() as resources:
            starting = asyncio.ensure_future(resources.enter_async_context(pool))
            if not await wait_unless_stopped(starting, stopped):
                starting.cancel()
                return
            starting.result()
            batcher = await resources.enter_async_context(_batcher(settings, engine, pool))
            report_load(waiting=lambda: batcher.num_waiting, running=lambda: batcher.num_running)
            servicer.attach(engine.model, batcher, basis)
            await server.ready()
            log.info("serving on port %d: %s, %s", server.port, engine.model.device, engine.model.dtype)
            await _watch(pool, server, stopped, max_wait_s=settings.max_decode_wait_s)
            log.info("draining")
            await server.drain(settings.drain_grace_s)
    finally:
        stopped.cancel()
        await server.drain(0)


def _build_server(settings: EncoderSettings) -> tuple[GrpcServer, EncoderServicer]:
    server = GrpcServer(ServerConfig.from_settings(settings), services=[_SERVICE])
    servicer = EncoderServicer(settings)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server.grpc)
    return server, servicer


def _batcher(settings: EncoderSettings, engine: EncoderEngine, pool: MediaPool) -> EncoderBatcher:
    return Batcher(
        EncoderExecutor(engine, pool, image_timeout_s=settings.image_decode_timeout_s),
        max_batch_size=settings.max_batch_size,
        max_batch_delay_s=settings.max_batch_delay_ms / 1000,
        max_queue_size=settings.max_queue_size,
    )


async def _watch(pool: MediaPool, server: GrpcServer, stopped: asyncio.Task[bool], *, max_wait_s: float) -> None:
    """Until `stopped`, reports NOT_SERVING while media wait too long to be decoded."""
    serving = True
    while not stopped.done():
        await asyncio.wait([stopped], timeout=_WATCH_INTERVAL_S)
        if (pool.num_workers > 0 and pool.longest_wait_s <= max_wait_s) != serving:
            serving = not serving
            log.warning("media wait too long to be decoded" if not serving else "media are decoded in time again")
            await server.report_serving(serving)
