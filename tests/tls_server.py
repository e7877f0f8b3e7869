"""TLS for an HTTP server of a test."""

from __future__ import annotations

import ssl

from tests.certificates import Authority
from tests.local_http_server import LocalHttpServer

__all__ = ["serve_tls"]


def serve_tls(server: LocalHttpServer, authority: Authority) -> str:
    """Lets a server, which has no connection yet, speak TLS with a certificate of `authority`; returns its URL."""
    files = authority.issue("https", "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.url.replace("http:", "https:")
