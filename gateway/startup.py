"""Command line of the gateway: runs the REST server until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
from typing import Final

import uvicorn

from fovea import telemetry
from fovea.metrics_endpoint import MetricsEndpoint
from fovea.rpc.server import BindError, split_address
from gateway.app import create_app
from gateway.http.drain import Drain
from gateway.settings import GatewaySettings

__all__ = ["main"]

log = logging.getLogger("gateway")

_SEND_GRACE_S: Final = 2
"""Seconds after the drain in which the errors of ended requests are sent."""


class _Server(uvicorn.Server):
    """Server that ends requests in progress after `grace_s` with an API error. uvicorn alone would send plain text."""

    def __init__(self, config: uvicorn.Config, drain: Drain, grace_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._drain.end)
        await super().shutdown(sockets)
        timer.cancel()


def main(argv: list[str]) -> int:
    """Runs the gateway. Returns the exit status: 0 after a clean stop, 1 for a taken address, 2 for wrong settings."""
    settings = GatewaySettings.from_command_line(argv)
    telemetry.configure_logging("gateway", settings.log_level)
    log.info("settings %s", settings.describe())
    try:
        app = create_app(settings)
    except (FileNotFoundError, ValueError) as error:
        print(f"python -m gateway: {error}", file=sys.stderr)
        return 2
    if settings.metrics_listen:
        try:
            MetricsEndpoint(*split_address(settings.metrics_listen))
        except OSError:
            print(f"python -m gateway: {BindError.at(settings.metrics_listen)}", file=sys.stderr)
            return 1
    if settings.allow_anonymous:
        log.warning("--allow-anonymous: everyone who reaches %s is served, without a key", settings.listen)
    host, port = split_address(settings.listen)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # written by gateway.http.request_context, with request id and outcome
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_grace_s) + _SEND_GRACE_S,
    )
    # After the drain uvicorn raises the received signal again, which would end a clean stop with the signal's status.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Server(config, app.state.drain, settings.drain_grace_s).run()
    return 0
