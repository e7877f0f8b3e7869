"""Settings of the services that `fovea up` determines: a variable or a line of the file for one is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from fovea.cli.parsing import UsageError
from fovea.processes.stack import SERVICES, Stack

__all__ = ["refuse_chosen_settings"]

_OPTIONS: Final = {
    "model": "--model MODEL",
    "served-model-name": "--served-model-name NAME",
    "text-tower": "--text-tower MODEL",
    "listen": "--listen HOST:PORT",
}


def refuse_chosen_settings(stack: Stack) -> None:
    """Checks that no variable is set that the stack would override in silence.

    Args:
        stack: services, not started. Its `environment` has the settings of the configuration file.

    Raises:
        UsageError: one is set. The message names each, and what takes its place.
    """
    places: dict[str, list[str]] = {}
    for place, remedy in _set(stack):
        places.setdefault(remedy, []).append(place)
    if places:
        raise UsageError(
            "; ".join(f"{', '.join(names)}: not accepted by fovea up, {remedy}" for remedy, names in places.items())
        )


def _set(stack: Stack) -> Iterator[tuple[str, str]]:
    """Settings that are set though the stack determines them, and what takes their place."""
    for service in SERVICES:
        table = service.removesuffix("_service")
        for name in stack.settings(service):
            variable = f"{table}_{name}".upper().replace("-", "_")
            if os.environ.get(variable):
                place = variable
            elif stack.environment.get(variable):
                place = f"{name.replace('-', '_')} in [{table}] of the configuration file"
            else:
                continue
            # Addresses of the services behind the gateway are free ports of the loopback interface.
            is_option = name in _OPTIONS and (name != "listen" or service == "gateway")
            yield place, f"use {_OPTIONS[name]}" if is_option else "which chooses this address itself"
