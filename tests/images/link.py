"""A network between two containers whose rate is limited, and which can be cut."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.images.engine import Container, docker

__all__ = ["Link"]

_BURST_BYTES = 16_000  # more than a packet that the kernel has yet to split


class Link:
    """A bridge between containers, narrowed by `tc tbf` on the host's end of each of them. Needs root and iproute2."""

    def __init__(self, mbit_s: float) -> None:
        self.network = f"fovea-link-{secrets.token_hex(4)}"
        self._bridge = f"fl{secrets.token_hex(4)}"
        self._mbit_s = mbit_s
        self._end_of: dict[Container, str] = {}

    def __enter__(self) -> Self:
        docker("network", "create", f"--opt=com.docker.network.bridge.name={self._bridge}", self.network)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        docker("network", "rm", self.network, check=False)

    def connect(self, container: Container, name: str) -> None:
        """Joins a container to the link under a host name."""
        others = self._ends()
        docker("network", "connect", f"--alias={name}", self.network, container.id)
        (end,) = self._ends() - others
        limits = ["rate", f"{self._mbit_s:g}mbit", "burst", str(_BURST_BYTES), "latency", "200ms"]
        subprocess.run(["tc", "qdisc", "add", "dev", end, "root", "tbf", *limits], check=True, capture_output=True)
        self._end_of[container] = end

    def disconnect(self, container: Container) -> None:
        docker("network", "disconnect", "--force", self.network, container.id)

    def bytes_at(self, container: Container) -> int:
        """Bytes that a container has sent and received over the link since it joined."""
        statistics = Path(f"/sys/class/net/{self._end_of[container]}/statistics")
        return sum(int((statistics / name).read_text()) for name in ("rx_bytes", "tx_bytes"))

    def _ends(self) -> set[str]:
        shown = subprocess.run(["ip", "-json", "link", "show", "master", self._bridge], capture_output=True, check=True)
        return {link["ifname"] for link in json.loads(shown.stdout or b"[]")}
