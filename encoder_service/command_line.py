"""The command `python -m encoder_service`: reads settings, then imports what serves them."""

from __future__ import annotations

import asyncio
import logging
import sys

from encoder_service.settings import EncoderSettings
from fovea import telemetry
from fovea.modeling.errors import CheckpointError
from fovea.processes import fork_server
from fovea.processes.imports import large_imports
from fovea.processes.worker_process import WorkerDied
from fovea.rpc.credential_files import CredentialsError
from fovea.rpc.server import BindError
from fovea.wire.basis_file import BasisError

__all__ = ["main"]

log = logging.getLogger("encoder_service")


def main(argv: list[str] | None = None) -> None:
    """Entry point. Exit status 1 when the model cannot be loaded or the address is taken, 2 on a wrong setting."""
    settings = EncoderSettings.from_command_line(sys.argv[1:] if argv is None else argv)
    telemetry.configure_logging("encoder", settings.log_level)
    log.info("settings %s", settings.describe())
    with large_imports():  # seconds, for which neither --help nor a wrong setting waits
        from encoder_service.startup import WORKER_MODULES, serve
    fork_server.fork_now(*WORKER_MODULES)  # nothing has started a thread yet
    try:
        asyncio.run(serve(settings))
    except (CheckpointError, FileNotFoundError, BasisError, BindError, CredentialsError, WorkerDied) as error:
        log.error("%s", error)
        raise SystemExit(1) from None
