"""A certificate authority and its certificates, as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

from fovea.rpc.tls import ClientTLS, ServerTLS

__all__ = ["Authority", "Files"]


@dataclass(frozen=True)
class Files:
    """PEM files of one certificate."""

    cert: str
    key: str


class Authority:
    """A certificate authority that keeps its files in `folder`; another one may use the same names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *identities: str) -> Files:
        """Writes NAME.pem and NAME.key."""
        files = Files(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key"))
        issued = self._ca.issue_cert(*identities)
        issued.private_key_pem.write_to_path(files.key)
        Path(files.cert).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return files

    def server(self, *, mutual: bool = True) -> ServerTLS:
        """TLS files of a server on loopback; `mutual`: clients need a certificate of this authority."""
        files = self.issue("server", "127.0.0.1", "localhost", "llm.test")
        return ServerTLS(files.cert, files.key, self.ca if mutual else "")

    def client(self, *, own: bool = True) -> ClientTLS:
        """TLS files of a client; `own`: with a certificate of its own."""
        files = self.issue("client", "edge.test")
        return ClientTLS(self.ca, files.cert, files.key) if own else ClientTLS(self.ca)
