"""`python -m llm_service`: serves until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Final

from fovea.modeling.errors import CheckpointError
from fovea.rpc.credential_files import CredentialsError
from fovea.rpc.lifecycle import exit_if_loading, load_in_background, stop_signal, wait_unless_stopped
from fovea.rpc.server import BindError, GrpcServer, ServerConfig
from fovea.telemetry import configure_logging, report_load
from fovea.v1 import llm_pb2_grpc
from fovea.wire.basis_file import BasisError
from llm_service.servicer import LLMServicer
from llm_service.settings import LLMSettings
from llm_service.startup import load

log = logging.getLogger("llm_service")

# What streams have to hear of a dead engine.
_LAST_WORDS_S: Final = 5.0


async def serve(settings: LLMSettings) -> int:
    """Opens the door, loads, serves, drains.

    Returns:
        Exit status: 0 after a signal, 1 if the model could not be loaded or its engine died.

    Raises:
        BindError: Somebody listens at the address already.
        CredentialsError: A certificate, key or token file cannot be used.
    """
    stop = stop_signal()
    server = GrpcServer(
        ServerConfig(
            settings.listen,
            max_message_bytes=settings.max_message_bytes,
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
            metrics_listen=settings.metrics_listen,
            tls=settings.tls,
            token_file=settings.token_file,
            max_connection_age_s=settings.max_connection_age_s,
            max_bytes_in_flight=settings.max_bytes_in_flight,
        ),
        services=["fovea.v1.LLMService"],
    )
    servicer = LLMServicer(max_timeout_s=settings.max_timeout_s, in_flight=server.in_flight)
    llm_pb2_grpc.add_LLMServiceServicer_to_server(servicer, server.grpc)
    await server.start()

    stopped, loading = asyncio.create_task(stop.wait()), load_in_background(lambda: load(settings))
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
    engine, loop, died = model.engine, asyncio.get_running_loop(), asyncio.Event()
    engine.start(on_death=lambda: loop.call_soon_threadsafe(died.set))
    report_load(waiting=lambda: engine.num_waiting, running=lambda: engine.num_running)
    servicer.serve(model)
    await server.ready()
    log.info("serving %s (%s) on port %d", model.name, model.limits.fingerprint, server.port)

    dead = asyncio.create_task(died.wait())
    if await wait_unless_stopped(dead, stopped):
        log.critical("the engine has died; this process ends, so that it can be started again")
        stopped.cancel()
        await server.drain(_LAST_WORDS_S)
    else:
        dead.cancel()
        log.info("draining: streams under way have %g s", settings.drain_grace_s)
        await server.drain(settings.drain_grace_s)
    await asyncio.to_thread(engine.stop)
    return int(dead.done() and not dead.cancelled())


def main() -> int:
    """Entry point."""
    settings = LLMSettings.from_command_line(sys.argv[1:])
    configure_logging("llm", settings.log_level)
    log.info("settings %s", settings.describe())
    try:
        status = asyncio.run(serve(settings))
    except (BindError, CredentialsError) as error:
        log.error("%s", error)
        return 1
    exit_if_loading(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
