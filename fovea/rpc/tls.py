"""TLS credentials of gRPC servers and clients, from PEM files that are read again when they change.

A server checks its files at every handshake. An open connection keeps its certificates, for at most the connection age
of fovea.rpc.server. A client replaces its channel (fovea.rpc.channel).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from fovea.rpc.credential_files import CredentialFiles, CredentialsError, pem_errors

__all__ = ["SYSTEM_ROOTS", "ClientTLS", "ServerTLS", "client_credentials", "load_cert_chain", "server_credentials"]

SYSTEM_ROOTS: Final = "system"
"""Value in place of a CA file: the root certificates that come with gRPC."""


@dataclass(frozen=True)
class ServerTLS:
    """PEM files of a server.

    Attributes:
        cert: file with the server's certificate and its chain.
        key: file with the private key, not encrypted.
        client_ca: file with the CA of the clients, which must then present a certificate of it; empty where clients
            need no certificate.
    """

    cert: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True)
class ClientTLS:
    """PEM files of a client.

    Attributes:
        ca: file with the CA of the server, or `SYSTEM_ROOTS`.
        cert, key: files with the client's certificate and private key; both empty where the server asks for none.
    """

    ca: str
    cert: str = ""
    key: str = ""


def server_credentials(files: ServerTLS) -> grpc.ServerCredentials:
    """Credentials for `add_secure_port`.

    Raises:
        CredentialsError: a file cannot be read or is not in PEM form, or key and certificate do not belong together.
    """

    def configuration() -> object:
        _check(files.cert, files.key, files.client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(_read(files.key), _read(files.cert))],
            root_certificates=_read(files.client_ca) if files.client_ca else None,
        )

    current = CredentialFiles([path for path in (files.cert, files.key, files.client_ca) if path], configuration)
    return grpc.dynamic_ssl_server_credentials(
        current.get(), current.get, require_client_authentication=bool(files.client_ca)
    )


def client_credentials(files: ClientTLS) -> CredentialFiles[grpc.ChannelCredentials]:
    """Credentials for a secure channel: the same object until a file changes.

    Raises:
        CredentialsError: a file cannot be used, see `server_credentials`.
    """
    ca = "" if files.ca == SYSTEM_ROOTS else files.ca

    def credentials() -> grpc.ChannelCredentials:
        _check(files.cert, files.key, ca)
        return grpc.ssl_channel_credentials(
            root_certificates=_read(ca) if ca else None,
            private_key=_read(files.key) if files.key else None,
            certificate_chain=_read(files.cert) if files.cert else None,
        )

    return CredentialFiles([path for path in (files.cert, files.key, ca) if path], credentials)


def _check(cert: str, key: str, ca: str) -> None:
    """Checks the files now. gRPC itself would report bad files only at the first handshake, in its own log."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if cert:
        load_cert_chain(context, cert, key)
    if ca:
        with pem_errors(f"CA {ca}"):
            context.load_verify_locations(ca)


def load_cert_chain(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Puts the certificate and the private key of PEM files into a context.

    Raises:
        CredentialsError: a file cannot be read or is not in PEM form, or key and certificate do not belong together.
    """
    with pem_errors(f"certificate {cert} and key {key}"):
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path}: {error.strerror}") from error
