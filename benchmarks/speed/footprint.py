"""`python -m benchmarks.speed.footprint`: start-up time and memory of each service, on the shipped model.

Each round imports what each service imports, in an interpreter of its own, and then starts the services one after the
other, so that no start slows another. Python's bytecode and the files of the checkpoint come from the page cache. The
services then answer questions, each about another image. `start` has the start on a full-size checkpoint.

Exit status 1 if the gateway takes longer to import, or more memory, than its goals. Needs Linux. Writes
`footprint.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.pruning import PRUNING
from benchmarks.harness.tables import Spread, table
from benchmarks.scaling.clients import jpeg_files
from benchmarks.speed.import_costs import COMPILED, import_packages, import_time
from benchmarks.speed.process_size import ServiceSize, service_size
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import SERVICE_NAMES, SERVICES, Stack, free_port
from fovea.rpc.probe import healthy

__all__ = ["GOALS", "main", "markdown"]

GOALS: Final[Mapping[str, float]] = {"import_cpu_s": 2.0, "rss": 150e6}
"""Largest median of the gateway: CPU seconds to import, and resident bytes when it is ready."""

_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.02
_MAX_TOKENS: Final = 8
_MOST_PACKAGES: Final = 12  # of a table; the JSON file has all


def _start(stack: Stack, service: str) -> float:
    """Seconds from the start of a service until it is healthy; of the gateway, until all services are ready."""
    target = {
        "encoder_service": stack.encoder_address,
        "llm_service": stack.llm_address,
        "gateway": f"{stack.url}/readyz",
    }[service]
    begin = time.perf_counter()
    stack.start(service)
    while not healthy(target):
        stack.check()
        if time.perf_counter() - begin > _TIMEOUT_S:
            raise TimeoutError(f"the {SERVICE_NAMES[service]} was not ready within {_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)
    return time.perf_counter() - begin


def _sizes(stack: Stack) -> dict[str, ServiceSize]:
    return {service: service_size(process.pid) for service, process in stack.processes.items()}


def _answer(url: str, images: Iterable[bytes]) -> None:
    """Asks a question about each image, one after the other."""
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as http:
        for number, image in enumerate(images):
            form = {"question": f"Is there a red star? Question {number}.", "max_tokens": str(_MAX_TOKENS), **PRUNING}
            http.post("/v1/answer", data=form, files={"image": ("image.jpg", image)}).raise_for_status()


def _round(images: Sequence[bytes], log: Path) -> dict[str, dict[str, Any]]:
    """Figures of one round, by service."""
    imports = {service: import_time(service) for service in SERVICES}
    stack = Stack(
        str(shipped_checkpoint("llava")),
        str(shipped_checkpoint("clip")),
        listen=f"127.0.0.1:{free_port()}",
        environment=COMPILED,
        log_to=log,
    )
    try:
        ready_s = {service: _start(stack, service) for service in SERVICES}
        ready = _sizes(stack)
        _answer(stack.url, images)
        answered = _sizes(stack)
    except Exception:
        print(log.read_text(errors="replace"), file=sys.stderr)
        raise
    finally:
        stack.stop()
    return {
        service: {
            "import_s": imports[service].seconds,
            "import_cpu_s": imports[service].cpu_seconds,
            "ready_s": ready_s[service],
            "ready": asdict(ready[service]),
            "answered": asdict(answered[service]),
        }
        for service in SERVICES
    }


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    packages = {service: import_packages(service) for service in SERVICES}  # leaves the bytecode for the rounds
    images = jpeg_files(args.answers)
    with tempfile.TemporaryDirectory() as scratch:
        rounds = [_round(images, Path(scratch) / "log") for _ in range(args.rounds)]
    return {
        "provenance": provenance("benchmarks.speed.footprint", packages=["fastapi", "pydantic"]),
        "answers": args.answers,
        "packages": {name: {one: asdict(cost) for one, cost in found.items()} for name, found in packages.items()},
        "rounds": rounds,
    }


def _spread(result: Mapping[str, Any], service: str, *path: str) -> Spread:
    """Spread of a figure over the rounds."""
    values = []
    for figures in result["rounds"]:
        value: Any = figures[service]
        for key in path:
            value = value[key]
        values.append(value)
    return Spread.of(values)


def _megabytes(spread: Spread) -> str:
    return Spread(*(value / 1e6 for value in (spread.median, spread.lowest, spread.highest))).text(0)


def _missed(result: Mapping[str, Any]) -> list[str]:
    """The gateway's figures that are above their goals."""
    found = {
        "import_cpu_s": _spread(result, "gateway", "import_cpu_s"),
        "rss": _spread(result, "gateway", "ready", "rss"),
    }
    return [name for name, bound in GOALS.items() if found[name].median > bound]


def markdown(result: Mapping[str, Any]) -> str:
    """The report."""
    times, memory = [], []
    for service in SERVICES:
        modules = sum(package["modules"] for package in result["packages"][service].values())
        counts = [
            _spread(result, service, "ready", name).text(0) for name in ("processes", "threads", "file_descriptors")
        ]
        seconds = [_spread(result, service, name).text(2) for name in ("import_s", "import_cpu_s", "ready_s")]
        times.append([SERVICE_NAMES[service], *seconds, str(modules), *counts])
        sizes = itertools.product(("ready", "answered"), ("rss", "pss", "uss"))
        memory.append([SERVICE_NAMES[service], *(_megabytes(_spread(result, service, *path)) for path in sizes)])
    missed = _missed(result)
    verdicts = {name: "missed" if name in missed else "met" for name in GOALS}
    return "\n".join(
        [
            "# Start-up time and memory of the services\n",
            f"{origin(dict(result), packages=['torch', 'transformers', 'fastapi', 'pydantic'])} Medians of"
            f" {len(result['rounds'])} rounds, with the lowest and the highest.\n",
            table(
                ["service", "import, s", "import, CPU s", "ready, s", "modules", "processes", "threads", "descriptors"],
                times,
                num_labels=1,
            ),
            f"Memory in MB when a service is ready, and after {result['answers']} answers. RSS is of a service's first"
            " process; PSS and USS are of all its processes.\n",
            table(
                ["service", *(f"{size}, {when}" for when in ("ready", "answered") for size in ("RSS", "PSS", "USS"))],
                memory,
                num_labels=1,
            ),
            f"Goals of the gateway: an import of at most {GOALS['import_cpu_s']:g} CPU s,"
            f" {verdicts['import_cpu_s']}; at most"
            f" {GOALS['rss'] / 1e6:g} MB resident when ready, {verdicts['rss']}.\n",
            *(_packages(SERVICE_NAMES[service], result["packages"][service]) for service in SERVICES),
        ]
    )


def _packages(name: str, packages: Mapping[str, Mapping[str, Any]]) -> str:
    """The slowest packages that a service imports."""
    rows = [
        [package, str(cost["modules"]), f"{1e3 * cost['seconds']:.0f}"]
        for package, cost in itertools.islice(packages.items(), _MOST_PACKAGES)
    ]
    return f"## Packages that the {name} imports\n\n" + table(["package", "modules", "ms"], rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    parser = command_parser("benchmarks.speed.footprint", __doc__)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--answers", type=positive, default=64, help="number of answers (default: %(default)s)")
    add_output(parser, rounds=1, answers=2)
    args = parser.parse_args(argv)
    result = _measure(args)
    publish(args.out, "footprint", result, markdown(result))
    return 1 if _missed(result) else 0


if __name__ == "__main__":
    sys.exit(main())
