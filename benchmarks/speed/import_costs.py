"""Imports of the services, each in an interpreter of its own: seconds, number of modules, time of each package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["COMPILED", "IMPORTS", "ImportTime", "PackageImport", "import_packages", "import_time"]

_GPU_SERVICE: Final = """
from {service}.settings import {settings}
from fovea.processes.imports import large_imports
from fovea.service import read_settings, run
with large_imports():
    from {service}.server.servicer import {servicer}
    from {service}.startup import load
"""

IMPORTS: Final[Mapping[str, str]] = {
    "encoder_service": _GPU_SERVICE.format(
        service="encoder_service", settings="EncoderSettings", servicer="EncoderServicer"
    ),
    "llm_service": _GPU_SERVICE.format(service="llm_service", settings="LLMSettings", servicer="LLMServicer"),
    "gateway": "from gateway.startup import main\n",
}
"""What each service's `__main__` imports before it starts, by service."""

COMPILED: Final[Mapping[str, str]] = {"PYTHONDONTWRITEBYTECODE": ""}
"""Environment in which the first import of a module leaves its bytecode for the next ones, as an installation does."""

_TIMED: Final = """
import time
clocks = time.perf_counter, time.process_time
begin = [clock() for clock in clocks]
{imports}
print([clock() - start for clock, start in zip(clocks, begin)])
"""
_LINE: Final = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")


@dataclass(frozen=True)
class ImportTime:
    """Time of the imports of a service after the interpreter has started, in seconds.

    Attributes:
        seconds: Time that passes. Other processes on the same cores make it longer.
        cpu_seconds: CPU time.
    """

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class PackageImport:
    """Modules of one package that a service imports, and their time.

    Attributes:
        modules: Number of modules.
        seconds: Time of these modules, without the modules of other packages that they import.
    """

    modules: int
    seconds: float


def import_time(service: str) -> ImportTime:
    """Time of the imports of a service, in a new interpreter."""
    return ImportTime(*json.loads(_python("-c", _TIMED.format(imports=IMPORTS[service])).stdout))


def import_packages(service: str) -> dict[str, PackageImport]:
    """Packages that a service imports, by name, the slowest first. `-X importtime` makes imports a little slower."""
    microseconds, modules = Counter[str](), Counter[str]()
    for line in _python("-X", "importtime", "-c", IMPORTS[service]).stderr.splitlines():
        if found := _LINE.match(line):
            package = found[2].partition(".")[0]
            microseconds[package] += int(found[1])
            modules[package] += 1
    return {name: PackageImport(modules[name], time / 1e6) for name, time in microseconds.most_common()}


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **COMPILED}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=True)
