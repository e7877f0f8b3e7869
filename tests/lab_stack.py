"""The three services as processes, with the shipped model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack, free_port

__all__ = ["ENVIRONMENT", "RECOMMENDED", "lab_stack"]

# One thread each: three processes share the machine, and more threads would slow each other down.
# DeSAP at a ninth by default, as the checkpoint's own recommendation may change; `RECOMMENDED` leaves it to that.
ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ENCODER_PRUNER": "desap",
    "ENCODER_KEEP_RATIO": "0.111",
}
RECOMMENDED: Final = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("ENCODER_")}

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def lab_stack(log_to: Path | None, environment: Mapping[str, str] = _NOTHING, **flags: list[str]) -> Stack:
    """The services, not started.

    Args:
        log_to: File for their logs; None for none.
        environment: Variables besides `ENVIRONMENT`.
        flags: Flags by service.
    """
    return Stack(
        str(shipped_checkpoint("llava")),
        str(shipped_checkpoint("clip")),
        listen=f"127.0.0.1:{free_port()}",
        name="fovea-lab",
        flags=flags,
        environment={**ENVIRONMENT, **environment},
        log_to=log_to,
    )
