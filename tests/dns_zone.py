"""A DNS server on loopback with one name, in the role of CoreDNS for a headless Kubernetes service."""

from __future__ import annotations

from typing import Self

from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

__all__ = ["Zone"]


class Zone(BaseResolver):
    """Every name has `addresses`, which the test may change at any time; `asked` counts the queries."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.asked = 0
        self._server = DNSServer(self, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply,-error"))

    def __enter__(self) -> Self:
        self._server.start_thread()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._server.server.server_close()

    def target(self, port: int) -> str:
        """gRPC target of all addresses, at `port`."""
        return f"dns://127.0.0.1:{self._server.server.server_address[1]}/service.test:{port}"

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """Resolves a query; called by dnslib."""
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            self.asked += 1
            reply.add_answer(*(RR(request.q.qname, QTYPE.A, rdata=A(address)) for address in self.addresses))
        return reply
