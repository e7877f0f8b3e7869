"""Reason why a service ended, from the log that it wrote."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any, Final

__all__ = ["describe_status", "last_reason"]

_TAIL_BYTES: Final = 256 * 1024
_MAX_REASON_CHARS: Final = 600
_EXCEPTION: Final = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*")
# Names of the services in the field `service` of their log lines.
_IN_LOG: Final = {"encoder_service": "encoder", "llm_service": "llm", "gateway": "gateway"}


def last_reason(log: Path, service: str, offset: int = 0) -> str | None:
    """Last error that a service logged; None for none.

    Args:
        log: file with the logs of all services: JSON lines, and lines of Python and its libraries.
        service: name of the service's package.
        offset: byte of the file at which the service was started.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(offset, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return None
    for read in (_own_line, _exception):
        for line in reversed(lines):
            reason = read(line, service)
            if reason:
                return reason[:_MAX_REASON_CHARS]
    return None


def _own_line(line: str, service: str) -> str | None:
    prefix = f"python -m {service}: "
    if line.startswith(prefix):
        return line.removeprefix(prefix)
    try:
        record: Any = json.loads(line)
    except ValueError:
        return None
    is_error = isinstance(record, dict) and record.get("level") in ("error", "critical")
    if not is_error or record.get("service") != _IN_LOG[service]:
        return None
    last = str(record.get("exception", "")).strip().rpartition("\n")[2]
    return " ".join(f"{record.get('message')}{': ' if last else ''}{last}".split())


def _exception(line: str, _: str) -> str | None:
    """Last line of a traceback, which does not name its service."""
    return line if _EXCEPTION.match(line) else None


def describe_status(status: int) -> str:
    """Exit status of a process in words, such as `status 2` or `signal SIGKILL`."""
    if status >= 0:
        return f"status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    return f"signal {name}" + " (out of memory?)" * (-status == signal.SIGKILL)
