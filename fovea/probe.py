"""`python -m fovea.probe TARGET`: exit status 0 if a service is healthy. For containers, which have no curl.

TARGET is host:port of a gRPC service (asked through grpc.health.v1) or an http:// URL (healthy on status 200).
"""

from __future__ import annotations

import sys

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["healthy", "main"]

_TIMEOUT_S = 3


def healthy(target: str) -> bool:
    """Whether the service at `target` says that it serves, within 3 s."""
    if target.startswith("http"):
        try:
            return httpx.get(target, timeout=_TIMEOUT_S, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
    with grpc.insecure_channel(target) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def main(argv: list[str]) -> int:
    """Exit status for a container's health check."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    return 0 if healthy(argv[0]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
