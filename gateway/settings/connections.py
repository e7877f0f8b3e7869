"""Settings of the gateway for the connections of its clients: TLS, limits, time limits, trusted proxies."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from fovea.settings import CommaSeparated, PrivateKeyFile, ServiceSettings
from gateway.client_addresses import parse_network

__all__ = ["ConnectionSettings"]


class ConnectionSettings(ServiceSettings):
    """Connections of clients: TLS, limits, time limits, trusted proxies."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    tls_cert: str = ""
    """PEM file with the certificate of the REST server and its chain, for TLS 1.2 and later. Empty: plain HTTP, for
    loopback or behind a proxy with TLS. This file and the next are read again when they change."""

    tls_key: PrivateKeyFile = Field(default="", validate_default=True)
    """PEM file with the private key of --tls-cert, not encrypted."""

    trusted_proxies: CommaSeparated[tuple[str, ...]] = ()
    """Comma-separated addresses and networks of reverse proxies, such as 10.0.0.7,fd00::/8. Their X-Forwarded-For and
    X-Forwarded-Proto are believed, and --max-connections-per-address does not apply to them. Empty: none, and these
    headers are ignored."""

    max_connections: int = Field(default=2048, ge=1)
    """Most open connections, TLS handshakes included. The next one takes the place of the oldest idle one of the
    address with the most connections, if that has two more than the next one's will have; otherwise it is closed at
    once. Idle connections have no request in progress; those of trusted proxies go last. The process needs 512 file
    descriptors more: its soft limit is raised to the hard one, which is checked at start."""

    max_connections_per_address: int = Field(default=512, ge=1)
    """Most open connections of one IPv4 address or one /64 of IPv6; the next one is closed at once."""

    header_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds for the headers of a request, from the connection or from their first byte; then 408, or a close if
    nothing arrived. Also the seconds for a TLS handshake."""

    keep_alive_s: int = Field(default=75, ge=0)
    """Seconds that an idle connection stays open, announced in each response as Keep-Alive: timeout=N. Use more than
    the idle time of the proxies in front, which is often 60. 0: one request for each connection."""

    send_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds without progress in sending a response, because the client does not read it; then the connection is
    closed."""

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            parse_network(proxy)
        return value
