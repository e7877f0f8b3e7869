"""Settings of the gateway for pages in a browser."""

from __future__ import annotations

import re
from typing import Final

from pydantic import field_validator
from pydantic_settings import SettingsConfigDict

from fovea.settings import CommaSeparated, ServiceSettings
from gateway.media.urls import ascii_host

__all__ = ["WebPageSettings"]

_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class WebPageSettings(ServiceSettings):
    """Settings for what pages in a browser may do."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    cors_origins: CommaSeparated[tuple[str, ...]] = ()
    """Comma-separated origins, such as https://app.example, whose pages may send requests and read the answers (CORS).
    Pages of other origins are refused. Empty: only this server's own /docs. * is not accepted: it would let every page
    that a user opens use this server."""

    allowed_hosts: CommaSeparated[tuple[str, ...]] = ()
    """Comma-separated names of this server, without port, as in the URLs of clients. IP addresses and localhost are
    always accepted; a request with another name in Host is refused, because a page can let its own name lead to this
    machine (DNS rebinding). Empty: no other name if --listen is a loopback address, any name if not. *: any name."""

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_origin, value))

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(host if host == "*" else ascii_host(host) for host in value)


def _origin(text: str) -> str:
    """An origin as browsers write it: in lower case, without the default port of its scheme."""
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError(f"{text!r} is not an origin; SCHEME://HOST or SCHEME://HOST:PORT without a path is accepted")
    scheme, host, port = found.groups(default="")
    return f"{scheme}://{host}{'' if port == _DEFAULT_PORTS.get(scheme) else port}"
