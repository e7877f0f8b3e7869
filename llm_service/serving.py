"""From settings to a running service: binds the address, loads the model, serves until SIGTERM or SIGINT, drains."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from fovea.modeling.errors import CheckpointError
from fovea.rpc.lifecycle import load_in_background, stop_signal, wait_unless_stopped
from fovea.rpc.load_metrics import report_load
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import llm_pb2_grpc
from fovea.wire.basis_file import BasisError
from llm_service.server.responses import ServedModel
from llm_service.server.servicer import LLMServicer
from llm_service.settings import LLMSettings
from llm_service.startup import load

__all__ = ["serve"]

log = logging.getLogger("llm_service")

# Time for open streams to receive the error of a dead engine.
_DEAD_ENGINE_GRACE_S: Final = 5.0


async def serve(settings: LLMSettings) -> int:
    """Binds the address, loads the model, serves until a signal, drains.

    Returns:
        Exit status: 0 after a signal, 1 if the model could not be loaded or its engine died.

    Raises:
        BindError: The address is in use.
        CredentialsError: A certificate, key or token file cannot be used.
    """
    stop = stop_signal()
    server, servicer = _build_server(settings)
    await server.start()
    stopped = asyncio.create_task(stop.wait())
    loading = load_in_background(lambda: load(settings))
    if not await wait_unless_stopped(loading, stopped):
        await server.drain(0)
        return 0
    try:
        model = loading.result()
    except (CheckpointError, FileNotFoundError, BasisError) as error:
        log.error("%s", error)
        stopped.cancel()
        await server.drain(0)
        return 1
    return await _serve_model(settings, server, servicer, model, stopped)


def _build_server(settings: LLMSettings) -> tuple[GrpcServer, LLMServicer]:
    server = GrpcServer(ServerConfig.from_settings(settings), services=["fovea.v1.LLMService"])
    servicer = LLMServicer(max_timeout_s=settings.max_timeout_s, in_flight=server.in_flight)
    llm_pb2_grpc.add_LLMServiceServicer_to_server(servicer, server.grpc)
    return server, servicer


async def _serve_model(
    settings: LLMSettings, server: GrpcServer, servicer: LLMServicer, model: ServedModel, stopped: asyncio.Task[bool]
) -> int:
    """Serves a loaded model until a signal or the death of its engine; returns the exit status."""
    engine, loop, died = model.engine, asyncio.get_running_loop(), asyncio.Event()
    engine.start(on_death=lambda: loop.call_soon_threadsafe(died.set))
    report_load(waiting=lambda: engine.num_waiting, running=lambda: engine.num_running)
    servicer.serve(model)
    await server.ready()
    log.info("serving %s (%s) on port %d", model.name, model.limits.fingerprint, server.port)

    dead = asyncio.create_task(died.wait())
    if await wait_unless_stopped(dead, stopped):
        log.critical("the engine has died; this process exits, so that it can be restarted")
        stopped.cancel()
        await server.drain(_DEAD_ENGINE_GRACE_S)
    else:
        dead.cancel()
        log.info("draining: open streams have %g s to finish", settings.drain_grace_s)
        await server.drain(settings.drain_grace_s)
    await asyncio.to_thread(engine.stop)
    return int(dead.done() and not dead.cancelled())
