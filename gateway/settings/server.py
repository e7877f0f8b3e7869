"""Settings of the gateway for its REST server: address, and limits of all requests together."""

from __future__ import annotations

from typing import Final

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fovea.settings import HostAndPort, LogLevel, OptionalHostAndPort, ServiceSettings

__all__ = ["RestServerSettings"]

MiB: Final = 2**20


class RestServerSettings(ServiceSettings):
    """Address of the REST server, and limits of all requests together."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    listen: HostAndPort = "127.0.0.1:8000"
    """host:port of the REST server."""

    metrics_listen: OptionalHostAndPort = ""
    """host:port of the Prometheus endpoint, which needs no API key. Empty for none. Port 0 takes a free one and logs
    it."""

    otlp_endpoint: str = ""
    """http://HOST:PORT or https://HOST:PORT of a collector of OpenTelemetry (OTLP over gRPC) for traces; needs
    pip install 'fovea[otel]'. Empty for none."""

    max_body_bytes: int = Field(default=20 * MiB, ge=1)
    """Largest request body, and most bytes of all images and videos of a request, fetched ones included; beyond it 413,
    without reading the rest."""

    max_total_body_bytes: int = Field(default=256 * MiB, ge=1)
    """Most bytes of request bodies in memory, of all requests together; beyond it 429 with Retry-After."""

    max_concurrent_bodies: int = Field(default=256, ge=1)
    """Most request bodies being read at once. Beyond it the slowest one is refused with 429 and Retry-After: one below
    --min-body-rate, or of a client that has more of them than the others. Where there is none, the new one is."""

    body_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds within which a request's body must arrive; then 408."""

    min_body_rate: int = Field(default=1000, ge=1)
    """Least bytes per second of a request's body, as the mean since its beginning and after 10 s; then 408."""

    max_concurrent_requests: int = Field(default=80, ge=1)
    """Most answers in progress at once; beyond it 429 with Retry-After, before the body is read if the limit is reached
    by then. One client alone gets seven eighths; the rest is for clients below their share, which is seven eighths
    divided by the number of clients in the last minute. The bytes of bodies are shared by the same rule."""

    max_pixels_in_flight: int = Field(default=250_000_000, ge=1)
    """Most pixels of images in calls to the encoder service at once. Beyond it a question waits, until its deadline.
    One client alone gets seven eighths, others their share by the rule of --max-concurrent-requests. A question with
    more pixels waits until nothing else is in progress."""

    drain_grace_s: float = Field(default=20.0, ge=0)
    """Seconds that answers in progress get when the process is stopped; then they are cancelled."""

    log_level: LogLevel = "info"
    """Lowest severity of log lines that are written. Those of the logger gateway.audit are always written."""
