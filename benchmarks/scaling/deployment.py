"""Replicas of the services on this machine, each held to a share of a core, behind one gateway for each shape."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.scaling.cpu_caps import CpuCaps, cpu_seconds
from fovea.processes.stack import Stack, free_port

__all__ = ["FLAGS", "ReplicaDeployment", "Shape"]

_STARTUP_S: Final = 240.0

# No feature cache: every image costs the vision tower. One thread for each model: a cap is below one core.
FLAGS: Final = {
    "encoder_service": ["--feature-cache-bytes", "0", "--num-threads", "1", "--max-batch-size", "4"],
    "llm_service": ["--num-threads", "1", "--max-batch-size", "4"],
}


@dataclass(frozen=True, order=True)
class Shape:
    """Number of replicas of each stage that a gateway uses."""

    encoders: int
    llms: int

    def __str__(self) -> str:
        return f"{self.encoders}x{self.llms}"


class ReplicaDeployment:
    """Encoder services, LLM services, and a gateway for each shape; an unused replica costs memory only.

    Args:
        model: LLaVA checkpoint.
        text_tower: CLIP checkpoint.
        shapes: Shapes, one for each gateway.
        encoder_cores: Cap of each encoder service.
        llm_cores: Cap of each LLM service.
        caps: Mechanism of the caps; the gateways have none.
        log: File of all logs.
    """

    def __init__(
        self,
        model: Path,
        text_tower: Path,
        shapes: Sequence[Shape],
        *,
        encoder_cores: float,
        llm_cores: float,
        caps: CpuCaps,
        log: Path,
    ) -> None:
        self._files = str(model), str(text_tower)
        self._log = log
        self._caps = caps
        self._cores = {"encoder_service": encoder_cores, "llm_service": llm_cores}
        self._encoders = [self._stack() for _ in range(max(shape.encoders for shape in shapes))]
        self._llms = [self._stack() for _ in range(max(shape.llms for shape in shapes))]
        self._gateways = {shape: self._gateway(shape) for shape in shapes}

    @property
    def shapes(self) -> list[Shape]:
        """Shapes of the gateways."""
        return list(self._gateways)

    def _stack(self) -> Stack:
        return Stack(
            *self._files,
            listen=f"127.0.0.1:{free_port()}",
            name="scaled",
            flags=FLAGS,
            environment={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            log_to=self._log,
        )

    def _gateway(self, shape: Shape) -> Stack:
        gateway = self._stack()
        gateway.encoder_address = _target([stack.encoder_address for stack in self._encoders[: shape.encoders]])
        gateway.llm_address = _target([stack.llm_address for stack in self._llms[: shape.llms]])
        return gateway

    def url(self, shape: Shape) -> str:
        """URL of the gateway of a shape."""
        return self._gateways[shape].url

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far: each service, all gateways, the clients (this process); and `wall` time."""
        services = [("encoder", self._encoders), ("llm", self._llms)]
        used = {
            f"{name} {number}": cpu_seconds(process.pid)
            for name, stacks in services
            for number, stack in enumerate(stacks, 1)
            for process in stack.processes.values()
        }
        gateways = [process.pid for stack in self._gateways.values() for process in stack.processes.values()]
        return used | {
            "gateway": sum(map(cpu_seconds, gateways)),
            "clients": cpu_seconds(os.getpid()),
            "wall": time.monotonic(),
        }

    def __enter__(self) -> Self:
        try:
            for service, stacks in (("encoder_service", self._encoders), ("llm_service", self._llms)):
                for stack in stacks:
                    stack.start(service)
            for stack in self._gateways.values():
                stack.start("gateway")
            for stack in self._gateways.values():
                stack.wait_ready(_STARTUP_S)
            for stack in (*self._encoders, *self._llms):  # loading is not measured, and not capped
                for service, process in stack.processes.items():
                    self._caps.cap(process.pid, self._cores[service])
        except BaseException:
            self._stop()
            raise
        return self

    def _stop(self) -> None:
        for stack in itertools.chain(self._gateways.values(), self._encoders, self._llms):
            stack.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


def _target(addresses: Sequence[str]) -> str:
    """gRPC target of one address, or of several that calls use in turns."""
    return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"
