"""Settings of the gateway for its connections to both services."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from fovea.rpc.addresses import check_target
from fovea.settings import ServiceSettings

__all__ = ["ServiceConnectionSettings"]

MiB: Final = 2**20


def _target(value: str) -> str:
    target = value.strip()  # docker's --env-file keeps a space at the end of a line
    check_target(target)
    return target


_Target = Annotated[str, AfterValidator(_target)]
"""Address of a service, as gRPC takes it."""


class ServiceConnectionSettings(ServiceSettings):
    """Settings for the connections to encoder service and LLM service."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    encoder: _Target = "127.0.0.1:50051"
    """host:port of the encoder service, or dns:///name:port, ipv4:10.0.0.1:50051,10.0.0.2:50051 or
    ipv6:[fd00::1]:50051,[fd00::2]:50051 to spread calls over several; or unix:path."""

    llm: _Target = "127.0.0.1:50052"
    """host:port of the LLM service, or several as for --encoder."""

    encoder_tls_ca: str = ""
    """PEM file with the CA of the encoder service's certificate, or the word system for the system's roots. Turns on
    TLS to that service. Empty: no TLS. This and the next four files are read again when they change."""

    encoder_tls_cert: str = ""
    """PEM file with the client certificate for the encoder service (mutual TLS). Empty: none."""

    encoder_tls_key: str = ""
    """PEM file with the private key of --encoder-tls-cert, not encrypted."""

    encoder_server_name: str = ""
    """Name required in the encoder service's certificate. Empty: the host of --encoder."""

    encoder_token_file: str = ""
    """File with the bearer token for the encoder service. Empty: no token is sent."""

    llm_tls_ca: str = ""
    """PEM file with the CA of the LLM service's certificate; see --encoder-tls-ca."""

    llm_tls_cert: str = ""
    """PEM file with the client certificate for the LLM service; see --encoder-tls-cert."""

    llm_tls_key: str = ""
    """PEM file with the private key of --llm-tls-cert, not encrypted."""

    llm_server_name: str = ""
    """Name required in the LLM service's certificate. Empty: the host of --llm."""

    llm_token_file: str = ""
    """File with the bearer token for the LLM service. Empty: no token is sent."""

    patience_s: float = Field(default=2.0, ge=0)
    """Outage timeout: seconds that a request waits for an unavailable service, then 503. The request continues when the
    service is back; its visual tokens are kept and not encoded again. Over an unsteady link, 60 outlasts a cut of half
    a minute. 0: no retry."""

    max_message_bytes: int = Field(default=64 * MiB, ge=1)
    """Largest gRPC message to or from a service; beyond it the request fails with 413 or 502."""

    @field_validator(
        *("encoder_tls_cert", "encoder_server_name", "encoder_token_file"),
        *("llm_tls_cert", "llm_server_name", "llm_token_file"),
    )
    @classmethod
    def _with_tls(cls, value: str, info: ValidationInfo) -> str:
        service = str(info.field_name).partition("_")[0]
        if value and not info.data.get(f"{service}_tls_ca"):
            raise ValueError(
                f"TLS is needed; give --{service}-tls-ca (GATEWAY_{service.upper()}_TLS_CA) as well: a PEM file with"
                " the CA of the service, or the word system for the usual roots"
            )
        return value
