"""Records messages and cached values of a commit: `python -m tests.contract.record COMMIT`.

The commit's own gateway answers the requests of `tests/contract/cases.py`, with its own services and the shipped model.
Its calls pass through servers that record them as bytes, and its cache is a Redis server that is read after each
answer. Nothing of the commit is imported, so any commit with these flags can be recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
from grpc_tools import protoc
from redis import Redis

from fovea.processes.stack import Stack
from tests.contract.calls import Call, CallServer, Tap
from tests.contract.cases import CASES, Case
from tests.contract.checkouts import environment, extract
from tests.contract.recordings import Recording, Recordings, stable
from tests.lab_stack import lab_stack
from tests.redis_server import RedisServer

__all__ = ["Recorder", "checkout_stack", "main", "recorder"]

_STARTUP_S: Final = 240


def checkout_stack(checkout: Path, log_to: Path | None = None, **flags: list[str]) -> Stack:
    """The three services of a checkout with the shipped model, not started."""
    return lab_stack(log_to, environment(checkout), **flags)


def _descriptors(checkout: Path, scratch: Path) -> bytes:
    """Serialized FileDescriptorSet of the contract of a checkout."""
    files = sorted(str(path) for path in (checkout / "proto").rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    words = ["protoc", f"-I{checkout / 'proto'}", f"-I{well_known}", "--include_imports"]
    status = protoc.main([*words, f"--descriptor_set_out={scratch}", *files])
    if status:
        raise RuntimeError(f"protoc failed with status {status}")
    return scratch.read_bytes()


class Recorder:
    """A gateway whose calls and cache entries are recorded.

    Args:
        http: Client of the gateway, also an attribute.
        taps: Recording servers of encoder service and LLM service, between the gateway and the services.
        redis: The gateway's cache.
    """

    def __init__(self, http: httpx.Client, taps: tuple[Tap, Tap], redis: Redis) -> None:
        self.http = http
        self._taps = taps
        self._redis = redis

    def record(self, case: Case) -> Recording:
        """Asks the gateway once, with an empty cache."""
        self._redis.flushall()
        for tap in self._taps:
            tap.calls.clear()
        response = self.http.post(case.path, json=case.body)
        if response.is_error:
            raise RuntimeError(f"the gateway answered with {response.status_code}: {response.text}")
        calls = [call for tap in self._taps for call in tap.calls if not call.method.endswith("/GetModelInfo")]
        cache = {key.decode(): self._redis.get(key) for key in sorted(self._redis.keys("*"))}
        return Recording(case.path, case.body, stable(response.json()), calls, cache)

    def infos(self) -> list[Call]:
        """Calls of GetModelInfo, recorded before the first case."""
        return [next(call for call in tap.calls if call.method.endswith("/GetModelInfo")) for tap in self._taps]


@contextlib.contextmanager
def recorder(services: Stack, gateway: Stack) -> Iterator[Recorder]:
    """A recorder with running services and a gateway that is started here.

    Args:
        services: Stack with a running encoder service and LLM service.
        gateway: Stack whose gateway is not started.
    """
    taps = Tap(services.encoder_address), Tap(services.llm_address)
    servers = [CallServer(tap) for tap in taps]
    gateway.encoder_address, gateway.llm_address = (server.address for server in servers)
    with contextlib.ExitStack() as resources:
        redis = resources.enter_context(RedisServer())
        gateway.flags = {"gateway": ["--redis-url", redis.url]}
        resources.callback(gateway.stop)
        gateway.start("gateway")  # before the servers, because a process with threads of gRPC is not to be forked
        for server in servers:
            resources.enter_context(server)
        gateway.wait_ready(_STARTUP_S)
        http = resources.enter_context(httpx.Client(base_url=gateway.url, timeout=60, trust_env=False))
        yield Recorder(http, taps, resources.enter_context(Redis.from_url(redis.url)))


def main(words: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.record", description=__doc__)
    parser.add_argument("commit", help="commit, as the folder of its recordings is to be named")
    commit = parser.parse_args(words).commit
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as resources:
        checkout = extract(commit, Path(scratch))
        services = checkout_stack(checkout)
        resources.callback(services.stop)
        services.start("encoder_service", "llm_service")
        recording = resources.enter_context(recorder(services, checkout_stack(checkout)))
        infos = recording.infos()
        Recordings.of(commit).write(
            {name: recording.record(case) for name, case in CASES.items()},
            infos,
            _descriptors(checkout, Path(scratch) / "contract.pb"),
        )
    print(f"{len(CASES)} cases of {commit} recorded")


if __name__ == "__main__":
    main()
