"""Middleware that refuses requests of pages in a browser which are not this server's own and not allowed by a setting.

A page of any site may let its visitor's browser send a form, or a body without a content type, to every address that
the browser reaches. It cannot read the response, but the work is done. Browsers say so in `Origin` and
`Sec-Fetch-Site`, which a page cannot change. A page whose own name leads to this server (DNS rebinding) is of the same
origin, and reads the response too. Only its name in `Host` gives it away.

Clients that are no browsers send neither `Origin` nor `Sec-Fetch-Site`, and pass.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from fovea.errors import ServiceError
from fovea.rpc.addresses import is_loopback
from fovea.rpc.server import split_address
from gateway.http.api_paths import is_api_path
from gateway.http.error_handlers import error_response
from gateway.http.errors import ForbiddenHost, ForbiddenOrigin
from gateway.settings import GatewaySettings

__all__ = ["WebPages"]

_OWN_SITES: Final = ("same-origin", "none")
"""Values of Sec-Fetch-Site of this server's own pages, and of what a user does without a page."""

_READ: Final = frozenset({b"host", b"origin", b"sec-fetch-site"})
_PORT: Final = re.compile(r":\d*$")
_MAX_ADDRESS_CHARS: Final = 64
"""Most characters of an IPv6 address in brackets: 39 and a short zone."""


class WebPages:
    """Checks of `Host` on every path, and of `Origin` and `Sec-Fetch-Site` on those of the API.

    Args:
        app: Application behind the checks.
        settings: Allowed origins and names of this server.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._origins = frozenset(settings.cors_origins)
        self._hosts = _accepted_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        app = self._app if error is None else error_response(scope, error)
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        # In one pass, and the first of several headers of a name, as `Headers.get`.
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"]) if name in _READ}
        host = headers.get(b"host", "").lower()
        if self._hosts is not None and not _is_own_host(host, self._hosts):
            return ForbiddenHost(
                "the name in Host is not one of this server; its IP address, localhost and the names of its"
                " setting --allowed-hosts are"
            )
        if is_api_path(scope) and not self._is_from_allowed_page(headers, host):
            return ForbiddenOrigin(
                "pages of this origin may not send requests here; those of the origins in the setting --cors-origins"
                " may"
            )
        return None

    def _is_from_allowed_page(self, headers: Mapping[bytes, str], host: str) -> bool:
        """Whether a request comes from no page, from one of this server, or from one of an allowed origin."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if origin in self._origins or site in _OWN_SITES:
            return True
        # Browsers send no Sec-Fetch-Site over plain HTTP, except to this machine. A proxy with TLS hides the scheme.
        return site is None and origin in (None, f"http://{host}", f"https://{host}")


def _accepted_hosts(settings: GatewaySettings) -> Collection[str] | None:
    """Names of this server besides `localhost`; None for any."""
    if "*" in settings.allowed_hosts:
        return None
    if settings.allowed_hosts or is_loopback(split_address(settings.listen)[0]):
        return frozenset(settings.allowed_hosts)
    return None


def _is_own_host(host: str, names: Collection[str]) -> bool:
    """Whether Host has an IP address, localhost or one of `names`. A request without Host is from no browser."""
    name = _PORT.sub("", host).removesuffix(".")
    return name in ("", "localhost") or name in names or (len(name) <= _MAX_ADDRESS_CHARS and _is_ip_address(name))


@lru_cache(maxsize=256)
def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
