"""TLS of the REST server, from PEM files that are read again when they change."""

from __future__ import annotations

import asyncio.sslproto
import ssl
from typing import Final

from fovea.rpc.credential_files import CredentialFiles
from fovea.rpc.tls import load_cert_chain

__all__ = ["server_contexts"]

_READ_BUFFER_BYTES: Final = 32 * 1024
"""Buffer of each TLS connection. A TLS record has at most 16 KiB; asyncio's 256 KiB would be 0.6 GB for the default
--max-connections."""


def server_contexts(cert: str, key: str) -> CredentialFiles[ssl.SSLContext]:
    """TLS contexts for new connections: the same one until a file changes. Open connections keep theirs.

    Args:
        cert: PEM file with the certificate and its chain.
        key: PEM file with the private key, not encrypted.

    Raises:
        CredentialsError: A file cannot be read or is not in PEM form, or key and certificate do not belong together.
    """

    asyncio.sslproto.SSLProtocol.max_size = _READ_BUFFER_BYTES

    def context() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.options |= ssl.OP_NO_RENEGOTIATION  # a client could have the server compute without end
        made.set_alpn_protocols(["http/1.1"])
        load_cert_chain(made, cert, key)
        return made

    return CredentialFiles([cert, key], context)
