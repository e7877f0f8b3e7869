"""The life of `python -m gateway`: runs the REST server until SIGTERM or SIGINT."""

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
from fovea.rpc.server import split_address
from gateway.api.drain import Drain
from gateway.app import create_app
from gateway.settings import GatewaySettings

__all__ = ["main"]

log = logging.getLogger("gateway")

_SEND_GRACE_S: Final = 2
"""Seconds in which errors of requests that the drain has ended must reach their clients."""


class _Server(uvicorn.Server):
    """Ends what is in progress itself after `grace_s`: uvicorn alone would cancel it and answer with plain text."""

    def __init__(self, config: uvicorn.Config, drain: Drain, grace_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._drain.end)
        await super().shutdown(sockets)
        timer.cancel()


def main(argv: list[str]) -> int:
    """Exit status: 0 after a clean stop, 2 for settings that cannot work."""
    settings = GatewaySettings.from_command_line(argv)
    telemetry.configure_logging("gateway", settings.log_level)
    log.info("settings %s", settings.describe())
    try:
        app = create_app(settings)
    except (FileNotFoundError, ValueError) as error:
        print(f"python -m gateway: {error}", file=sys.stderr)
        return 2
    host, port = split_address(settings.listen)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # gateway.api.request_context writes it, with request id and outcome
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_grace_s) + _SEND_GRACE_S,
    )
    # Once it has drained, uvicorn raises the signal that stopped it again; a clean stop is no death by signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Server(config, app.state.drain, settings.drain_grace_s).run()
    return 0
