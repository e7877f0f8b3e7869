"""Settings of the gateway: flags of `python -m gateway` and environment variables `GATEWAY_*`."""

from __future__ import annotations

from fovea.settings import settings_config
from gateway.settings.access import AccessSettings
from gateway.settings.cache import CacheSettings
from gateway.settings.connections import ConnectionSettings
from gateway.settings.model import ServedModelSettings
from gateway.settings.requests import RequestSettings
from gateway.settings.server import RestServerSettings
from gateway.settings.services import ServiceConnectionSettings
from gateway.settings.web_pages import WebPageSettings

__all__ = ["GatewaySettings"]


class GatewaySettings(
    # --help lists the fields of the last base first.
    WebPageSettings,
    AccessSettings,  # it checks the address of the server
    RestServerSettings,
    ConnectionSettings,
    RequestSettings,
    CacheSettings,
    ServiceConnectionSettings,
    ServedModelSettings,
):
    """REST API in front of the encoder service and the LLM service. Tokenizes and caches; needs no GPU and no torch."""

    model_config = settings_config("python -m gateway", "GATEWAY_")
