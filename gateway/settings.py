"""Settings of the gateway: flags of `python -m gateway` and environment variables `GATEWAY_*`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from fovea import checkpoints
from fovea.rpc.server import split_address
from fovea.settings import KeepRatio, ServiceSettings, settings_config
from fovea.wire.formats import OptionalWireFormatName
from gateway.media.urls import ascii_host
from gateway.model_names import ALIAS_FORM, parse_alias

__all__ = ["GatewaySettings"]

MiB = 2**20


class GatewaySettings(ServiceSettings):
    """REST API in front of the encoder service and the LLM service. Tokenizes and caches; needs no GPU and no torch."""

    model_config = settings_config("python -m gateway", "GATEWAY_")

    model: str
    """Checkpoint that both services serve: a local directory or a hub id. Only its tokenizer, chat template and
    configuration are read or fetched, never its weights."""

    text_tower: str = ""
    """Checkpoint of the text tower, whose tokenizer encodes the question; must be the encoder's own. Empty for the
    family's: openai/clip-vit-large-patch14-336 for llava and llava_next, LanguageBind/LanguageBind_Image for
    video_llava; qwen2_5_vl needs none."""

    revision: str | None = None
    """Branch, tag or commit of `model` on the hub; left out: the default branch."""

    served_model_name: str = ""
    """Name that clients use in `model`; empty: the hub id, or the directory's last component. Any other name is a
    404."""

    alias: Annotated[list[str], NoDecode] = Field(default_factory=list)
    """Alias of the model that GET /v1/models lists, for OpenAI-compatible clients that can send only a name:
    NAME@PRUNER or NAME@PRUNER:KEEP_TOKENS, such as llava-1.5-7b@desap:64, where NAME is that of the served model. May
    be repeated; in the environment variable, comma-separated. An alias that is not listed works as well."""

    listen: str = "127.0.0.1:8000"
    """host:port of the REST server."""

    encoder: str = "127.0.0.1:50051"
    """host:port of the encoder service, or dns:///name:port or ipv4:10.0.0.1:50051,10.0.0.2:50051 to spread calls over
    several."""

    llm: str = "127.0.0.1:50052"
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

    redis_url: SecretStr = SecretStr("")
    """redis:// or rediss:// URL of a cache shared by all gateways; empty: a cache in this process. While Redis is down
    or slow, answers are computed again; no request fails because of it."""

    cache_ttl_s: float = Field(default=3600.0, gt=0)
    """Time to live of cached answers and visual tokens, in seconds."""

    answer_cache_bytes: int = Field(default=16 * MiB, ge=0)
    """Size of the answer cache in this process; beyond it the least recently used entries are removed. 0 turns it off.
    Unused with Redis."""

    visual_token_cache_bytes: int = Field(default=256 * MiB, ge=0)
    """Size of the visual-token cache in this process; beyond it the least recently used entries are removed. 0 turns it
    off. Unused with Redis."""

    pruner: str = ""
    """Pruner for requests that name none; empty: the encoder's default."""

    keep_ratio: KeepRatio | None = None
    """Share of visual tokens kept for requests that set no budget; left out: the encoder's default."""

    wire_dtype: OptionalWireFormatName = ""
    """Wire format of visual tokens for requests that set none; empty: the encoder's default."""

    max_body_bytes: int = Field(default=20 * MiB, ge=1)
    """Largest request body, and most bytes of all images and videos of a request, fetched ones included; beyond it 413,
    without reading the rest."""

    max_total_body_bytes: int = Field(default=256 * MiB, ge=1)
    """Most bytes of request bodies in memory, of all requests together; beyond it 429 with Retry-After."""

    max_concurrent_bodies: int = Field(default=256, ge=1)
    """Most request bodies being read at once; beyond it 429 with Retry-After. Slow clients occupy these
    slots, not those of answers."""

    body_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds within which a request's body must arrive; then 408."""

    max_image_bytes: int = Field(default=16 * MiB, ge=1)
    """Largest image file, uploaded, inline or fetched; beyond it 413."""

    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Largest image that `/v1/explain` draws, in pixels; beyond it 413."""

    max_video_bytes: int = Field(default=16 * MiB, ge=1)
    """Largest video file, uploaded, inline or fetched; beyond it 413."""

    max_images: int = Field(default=8, ge=1, le=64)
    """Most images in one request, all turns of `messages` together, up to 64; beyond it 422. The encoder service has
    its own limit."""

    max_videos: int = Field(default=8, ge=1, le=16)
    """Most videos in one request, up to 16; beyond it 422. The encoder service has its own limit."""

    max_video_frames: int = Field(default=64, ge=1, le=1024)
    """Most frames of one video, as a list or in `num_frames`, up to 1024; beyond it 422. The encoder service has its
    own limit."""

    max_question_chars: int = Field(default=8000, ge=1)
    """Longest question, or text of the last user turn of `messages`, in characters; beyond it 422."""

    max_messages_chars: int = Field(default=32_000, ge=1)
    """Longest chat history: characters of all texts in `messages`; beyond it 422."""

    max_tokens: int = Field(default=2048, ge=1)
    """Largest `max_tokens` of a request; beyond it 422."""

    default_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline in seconds of a request that sets no `timeout_s`; then 504."""

    max_timeout_s: float = Field(default=600.0, gt=0)
    """Largest `timeout_s` of a request; beyond it 422."""

    max_concurrent_requests: int = Field(default=64, ge=1)
    """Most answers in progress at once; beyond it 429 with Retry-After, before the body is read if the limit is reached
    by then."""

    fetch_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated host names from which https images and videos may be fetched. Empty: fetching is off, and https
    URLs are a 422. Names that resolve to private addresses are refused, redirects are not followed."""

    max_message_bytes: int = Field(default=64 * MiB, ge=1)
    """Largest gRPC message to or from a service; beyond it the request fails with 413 or 502."""

    drain_grace_s: float = Field(default=20.0, ge=0)
    """Seconds that answers in progress get when the process is stopped; then they are cancelled."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity of log lines that are written."""

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("fetch_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        parts = [value] if isinstance(value, str) else value
        return tuple(ascii_host(host.strip()) for part in parts for host in str(part).split(",") if host.strip())

    @field_validator("alias", mode="before")
    @classmethod
    def _split_aliases(cls, value: Any) -> Any:
        parts = [value] if isinstance(value, str) else value
        return [alias.strip() for part in parts for alias in str(part).split(",") if alias.strip()]

    @field_validator("alias")
    @classmethod
    def _are_aliases(cls, value: list[str], info: ValidationInfo) -> list[str]:
        served_name = info.data.get("served_model_name") or checkpoints.public_name(info.data.get("model", ""))
        for alias in value:
            if parse_alias(alias, served_name) is None:
                raise ValueError(f"{alias!r} is the name of the served model itself; {ALIAS_FORM} is accepted")
        return value

    @property
    def model_name(self) -> str:
        """The name under which the model is served."""
        return self.served_model_name or checkpoints.public_name(self.model)
