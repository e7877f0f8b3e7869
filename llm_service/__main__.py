"""`python -m llm_service`: reads settings, then imports what serves them until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import sys

from fovea.processes.imports import large_imports
from fovea.rpc.credential_files import CredentialsError
from fovea.rpc.lifecycle import run_process
from fovea.rpc.server import BindError
from fovea.telemetry import configure_logging
from llm_service.settings import LLMSettings

log = logging.getLogger("llm_service")


def main() -> int:
    """Entry point."""
    settings = LLMSettings.from_command_line(sys.argv[1:])
    configure_logging("llm", settings.log_level)
    log.info("settings %s", settings.describe())
    with large_imports():  # seconds, for which neither --help nor a wrong setting waits
        from llm_service.serving import serve
    try:
        return asyncio.run(serve(settings))
    except (BindError, CredentialsError) as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    run_process(main)
