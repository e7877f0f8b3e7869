"""Command line of the gateway: runs the REST server until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import logging
import sys
from typing import Final

from fovea import telemetry, tracing
from fovea.metrics_endpoint import MetricsEndpoint
from fovea.rpc.server import BindError, split_address
from gateway.app import create_app
from gateway.server.file_descriptors import raise_file_limit
from gateway.server.server import RestServer
from gateway.settings import GatewaySettings

__all__ = ["main"]

log = logging.getLogger("gateway")

_GC_THRESHOLD: Final = 10_000
"""New objects after which garbage is looked for: those of about ten requests. Python's 700 are less than one's."""


def main(argv: list[str]) -> int:
    """Runs the gateway. Returns the exit status: 0 after a clean stop, 1 for a taken address, 2 for wrong settings."""
    settings = GatewaySettings.from_command_line(argv)
    telemetry.configure_logging("gateway", settings.log_level)
    # A line has neither the place in the code nor thread and process. Finding them takes a fifth of its time.
    logging._srcfile = None  # documented, see "Optimization" in Python's Logging HOWTO
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    settings.write_to(log)
    try:
        tracing.start("gateway", settings.otlp_endpoint)
        raise_file_limit(settings.max_connections)
        app = create_app(settings)
        server = RestServer(app, settings, app.state.drain)
    except (FileNotFoundError, ValueError) as error:
        print(f"python -m gateway: {error}", file=sys.stderr)
        return 2
    if settings.metrics_listen:
        try:
            MetricsEndpoint(*split_address(settings.metrics_listen))
        except OSError:
            print(
                f"python -m gateway: {BindError.of_metrics(settings.metrics_listen, settings.env_prefix)}",
                file=sys.stderr,
            )
            return 1
    if settings.allow_anonymous:
        log.warning("--allow-anonymous: everyone who reaches %s is served, without a key", settings.listen)
    # Modules, tokenizers and schemas stay for good. A full collection that looks at them stops all requests meanwhile.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    server.run()
    return 0
