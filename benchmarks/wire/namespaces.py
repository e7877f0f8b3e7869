"""A link that can be narrowed and cut: two network namespaces of this machine, joined by a veth pair and `tc tbf`.

Linux only, and only as root. There is no propagation delay, which would need netem. A slow link costs the time that the
bytes take, and a queue of up to 200 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

__all__ = ["CLOUD_ADDRESS", "NarrowLink", "Side", "why_not"]

Side = Literal["edge", "cloud"]

EDGE_ADDRESS: Final = "10.77.0.1"
CLOUD_ADDRESS: Final = "10.77.0.2"
_ADDRESSES: Final[dict[Side, str]] = {"edge": EDGE_ADDRESS, "cloud": CLOUD_ADDRESS}
_HARDWARE: Final[dict[Side, str]] = {"edge": "02:00:00:00:00:01", "cloud": "02:00:00:00:00:02"}
_CLONE_NEWNET: Final = 0x40000000
_LEAST_BURST_BYTES: Final = 1600  # a packet of 1,514 bytes must fit
_BURST_S: Final = 0.004


def why_not() -> str:
    """The reason why no link can be made here; empty if one can be made."""
    if os.name != "posix" or not Path("/proc/self/ns/net").exists():
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "ip and tc (iproute2) are not installed"
    try:
        with NarrowLink():
            return ""
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Traffic:
    """Bytes that crossed the link since it was made, with Ethernet headers."""

    to_cloud: int
    to_edge: int

    @property
    def both(self) -> int:
        return self.to_cloud + self.to_edge


class NarrowLink:
    """Namespaces `edge` and `cloud`; a context that removes them at its end.

    Raises:
        subprocess.CalledProcessError: No link can be made; see `why_not`. Raised on entering the context.
    """

    def __init__(self) -> None:
        number = os.getpid()
        self._names: dict[Side, str] = {"edge": f"fovea-edge-{number}", "cloud": f"fovea-cloud-{number}"}
        self._devices: dict[Side, str] = {"edge": f"fve{number}", "cloud": f"fvc{number}"}
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> Self:
        try:
            for name in self._names.values():
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            edge = ["add", self._devices["edge"], "netns", self._names["edge"]]
            cloud = ["name", self._devices["cloud"], "netns", self._names["cloud"]]
            _run("ip", "link", *edge, "type", "veth", "peer", *cloud)
            for side, device in self._devices.items():
                self._ip(side, "addr", "add", f"{_ADDRESSES[side]}/24", "dev", device)
                # Whole packets, as on a wire: counters would see one header for 64 KiB.
                words = ["address", _HARDWARE[side], "gso_max_segs", "1", "up"]
                self._ip(side, "link", "set", "dev", device, *words)
            self._set_neighbours()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()

    def _remove(self) -> None:
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)  # noqa: S607

    def _set_neighbours(self) -> None:
        """Sets the hardware address of the other end at each end. With ARP, a cut would end in an error, no route to
        host, after three seconds."""
        others: dict[Side, Side] = {"edge": "cloud", "cloud": "edge"}
        for side, other in others.items():
            words = [_ADDRESSES[other], "lladdr", _HARDWARE[other], "dev", self._devices[side], "nud", "permanent"]
            self._ip(side, "neigh", "replace", *words)

    def _ip(self, side: Side, *words: str) -> str:
        return _run("ip", "-n", self._names[side], *words)

    def limit(self, mbit_s: float) -> None:
        """Limits the rate in each direction to `mbit_s` Mbit/s."""
        burst = max(_LEAST_BURST_BYTES, round(mbit_s * 1e6 / 8 * _BURST_S))
        rate = ["tbf", "rate", f"{round(mbit_s * 1e6)}bit", "burst", f"{burst}b", "latency", "200ms"]
        for side, name in self._names.items():
            _run("tc", "-n", name, "qdisc", "replace", "dev", self._devices[side], "root", *rate)

    def cut(self) -> None:
        """Cuts the link: nothing arrives any more, and neither end sees an error."""
        self._ip("cloud", "link", "set", "dev", self._devices["cloud"], "down")

    def mend(self) -> None:
        """Undoes `cut`."""
        self._ip("cloud", "link", "set", "dev", self._devices["cloud"], "up")
        self._set_neighbours()

    def traffic(self) -> Traffic:
        """Traffic so far, from the counters of the interface at the edge."""
        (link,) = json.loads(self._ip("edge", "-s", "-j", "link", "show", "dev", self._devices["edge"]))
        stats: dict[str, Any] = link["stats64"]
        return Traffic(to_cloud=stats["tx"]["bytes"], to_edge=stats["rx"]["bytes"])

    @contextlib.contextmanager
    def at(self, side: Side) -> Iterator[None]:
        """A context in which sockets and processes that this thread makes belong to `side`, also after its end."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            namespace = os.open(f"/run/netns/{self._names[side]}", os.O_RDONLY)
            try:
                self._enter(namespace)
            finally:
                os.close(namespace)
            try:
                yield
            finally:
                self._enter(before)
        finally:
            os.close(before)

    def _enter(self, namespace: int) -> None:
        if self._libc.setns(namespace, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
