"""`python -m llm_service`: serves until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from typing import Any

from fovea.server import BindError, GrpcServer, stop_signal
from fovea.telemetry import configure_logging
from fovea.v1 import llm_pb2_grpc
from llm_service.models.base import CheckpointError
from llm_service.servicer import LLMServicer, ServedModel
from llm_service.settings import LLMSettings
from llm_service.startup import load

log = logging.getLogger("llm_service")

_LOADER = "load"


async def serve(settings: LLMSettings) -> int:
    """Opens the door, loads, serves, drains.

    Returns:
        Exit status: 0 after a signal, 1 if the model could not be loaded.

    Raises:
        BindError: Somebody listens at the address already.
    """
    stop = stop_signal()
    servicer = LLMServicer(max_timeout_s=settings.max_timeout_s)
    server = GrpcServer(
        settings.listen,
        services=["fovea.v1.LLMService"],
        max_message_bytes=settings.max_message_bytes,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
        metrics_listen=settings.metrics_listen,
    )
    llm_pb2_grpc.add_LLMServiceServicer_to_server(servicer, server.grpc)
    await server.start()

    stopped, loading = asyncio.create_task(stop.wait()), _load(settings)
    either: list[asyncio.Future[Any]] = [stopped, loading]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        await server.drain(0)
        return 0
    try:
        model = loading.result()
    except (CheckpointError, FileNotFoundError) as error:
        log.error("%s", error)
        stopped.cancel()
        await server.drain(0)
        return 1
    model.engine.start()
    servicer.serve(model)
    await server.ready()
    log.info("serving %s (%s) on port %d", model.name, model.limits.fingerprint, server.port)

    await stopped
    log.info("draining: streams under way have %g s", settings.drain_grace_s)
    await server.drain(settings.drain_grace_s)
    await asyncio.to_thread(model.engine.stop)
    return 0


def _load(settings: LLMSettings) -> asyncio.Future[ServedModel]:
    """Loads on a daemon thread: health answers meanwhile, and a signal need not wait for gigabytes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ServedModel] = loop.create_future()

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: a signal came first
            try:
                model = load(settings)
            except Exception as error:
                loop.call_soon_threadsafe(future.set_exception, error)
            else:
                loop.call_soon_threadsafe(future.set_result, model)

    threading.Thread(target=run, name=_LOADER, daemon=True).start()
    return future


def main() -> int:
    """Entry point."""
    settings = LLMSettings.from_command_line(sys.argv[1:])
    configure_logging("llm", settings.log_level)
    log.info("settings %s", settings.describe())
    try:
        status = asyncio.run(serve(settings))
    except BindError as error:
        log.error("%s", error)
        return 1
    if any(thread.name == _LOADER for thread in threading.enumerate()):
        # A signal came while loading. A thread inside torch's C++ would abort an interpreter that shuts down under it.
        logging.shutdown()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
