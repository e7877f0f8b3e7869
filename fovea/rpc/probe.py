"""`python -m fovea.rpc.probe TARGET`: exit status 0 if a service is healthy. For containers, which have no curl.

TARGET is host:port of a gRPC service, which is asked through grpc.health.v1, or an http:// URL, which is healthy on
status 200. A service with TLS needs --tls-ca. A service that asks for client certificates needs --tls-cert and
--tls-key too. Health needs no bearer token.
"""

from __future__ import annotations

import argparse
import sys

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fovea.rpc.credential_files import CredentialsError
from fovea.rpc.tls import ClientTLS, client_credentials

__all__ = ["healthy", "main"]

_TIMEOUT_S = 3


def healthy(target: str, tls: ClientTLS | None = None, server_name: str = "") -> bool:
    """Whether the service at `target` reports within 3 s that it serves.

    Args:
        target: host:port, or an http:// URL.
        tls: PEM files; None for no TLS.
        server_name: name in the service's certificate; empty for that of `target`.

    Raises:
        CredentialsError: a file of `tls` cannot be used.
    """
    if target.startswith("http"):
        try:
            return httpx.get(target, timeout=_TIMEOUT_S, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
    with _channel(target, tls, server_name) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _channel(target: str, tls: ClientTLS | None, server_name: str) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(target)
    options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    return grpc.secure_channel(target, client_credentials(tls).get(), options)


def main(argv: list[str]) -> int:
    """Exit status for a container's health check: 0 healthy, 1 not healthy, 2 wrong command line.

    A status of 1 has a line on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m fovea.rpc.probe", description="Is a service healthy?")
    parser.add_argument("target", help="host:port of a gRPC service, or an http:// URL")
    parser.add_argument("--tls-ca", default="", help="PEM file with the CA of the service, or the word system")
    parser.add_argument("--tls-cert", default="", help="PEM file with the client's certificate")
    parser.add_argument("--tls-key", default="", help="PEM file with its key")
    parser.add_argument("--server-name", default="", help="name in the service's certificate")
    options = parser.parse_args(argv)
    tls = ClientTLS(options.tls_ca, options.tls_cert, options.tls_key) if options.tls_ca else None
    try:
        if healthy(options.target, tls, options.server_name):
            return 0
    except CredentialsError as error:
        parser.error(str(error))
    hint = "; its certificate must have that host name, or the one of --server-name" if tls else ""
    print(f"{options.target} does not report within {_TIMEOUT_S} s that it serves{hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
