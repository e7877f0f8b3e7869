"""Settings of the gateway for its clients: API keys, and limits of each client."""

from __future__ import annotations

from typing import Final

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from fovea.api_keys.key_lines import LIMIT_VALUES, ClientLimits
from fovea.rpc.addresses import is_loopback
from fovea.rpc.server import split_address
from fovea.settings import ServiceSettings

__all__ = ["AccessSettings"]

_MOST: Final = LIMIT_VALUES[-1]


class AccessSettings(ServiceSettings):
    """Clients that are served, and limits of each of them."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    keys_file: str = ""
    """File of API keys, which `fovea keys add NAME` makes. Every path under /v1 then needs a key of it, as
    `Authorization: Bearer KEY`, or answers 401. The file is read again when it changes. Empty: no keys, and only
    loopback addresses are served, see --allow-anonymous."""

    allow_anonymous: bool = Field(default=False, validate_default=True)
    """Serve everyone without a key on any address, for a gateway behind something else that knows its clients. Without
    it and without --keys-file, --listen must be a loopback address."""

    requests_per_minute: int | None = Field(default=None, ge=1, le=_MOST)
    """Most questions of a client in a minute on average, unless its key has a limit of its own; beyond it 429 with
    Retry-After. After a burst at the end of a minute, up to twice as many are accepted in 60 seconds. A
    client is a key's name, or without keys an IPv4 address or the first 64 bits of an IPv6 address. With --redis-url
    all gateways count together. Left out: no limit."""

    concurrency_per_client: int | None = Field(default=None, ge=1, le=_MOST)
    """Most questions of a client in progress, unless its key has a limit of its own; beyond it 429. Left out: no limit,
    except the client's share of --max-concurrent-requests."""

    megapixels_per_minute: int | None = Field(default=None, ge=1, le=_MOST)
    """Most pixels of a client's images and frames of lists in a minute on average, in millions, by their headers,
    unless its key has a limit of its own; beyond it 429 with Retry-After. Video files are not counted. Left out: no
    limit."""

    @field_validator("allow_anonymous")
    @classmethod
    def _is_safe(cls, value: bool, info: ValidationInfo) -> bool:
        keys_file, listen = info.data.get("keys_file", ""), info.data.get("listen", "")
        if value and keys_file:
            raise ValueError("--keys-file and --allow-anonymous exclude each other; give one of them")
        if not value and not keys_file and listen and not is_loopback(split_address(listen)[0]):
            raise ValueError(
                f"--listen {listen} serves other machines, and no client has a key. Give --keys-file FILE"
                " (fovea keys add NAME --file FILE makes one), or --allow-anonymous to serve everyone"
            )
        return value

    @property
    def client_limits(self) -> ClientLimits:
        """Limits of clients whose key has none of its own."""
        return ClientLimits(self.requests_per_minute, self.concurrency_per_client, self.megapixels_per_minute)
