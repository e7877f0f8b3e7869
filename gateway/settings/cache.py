"""Settings of the gateway for its caches."""

from __future__ import annotations

from typing import Final

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from fovea.settings import ServiceSettings

__all__ = ["CacheSettings"]

MiB: Final = 2**20


class CacheSettings(ServiceSettings):
    """Settings for the caches of answers and visual tokens."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    redis_url: SecretStr = SecretStr("")
    """redis:// or rediss:// (TLS) URL of a cache shared by all gateways, with a user name where Redis has one; empty: a
    cache in this process. While Redis is down or slow, answers are computed again; no request fails because of it."""

    redis_password_file: str = ""
    """File with the password of Redis, read again for new connections when it changes. Empty: that of --redis-url,
    which others on the machine may see, or none."""

    redis_tls_ca: str = ""
    """PEM file with the CA of Redis's certificate, or the word system for the system's roots; for rediss:// only. The
    certificate must name the host of --redis-url. Empty: system."""

    cache_key_file: str = ""
    """File with the key of the values in Redis: one of 32 to 512 characters a line, such as `openssl rand -hex 32`
    prints. All gateways of a Redis need the same. The first line signs new values, and values of all lines (up to 8)
    are accepted, so that a key can be changed. Read again when it changes. A value with another signature is computed
    again. Empty: a random key of this process, with which values are shared with no other gateway and are lost at a
    restart. Unused without Redis."""

    cache_ttl_s: float = Field(default=3600.0, gt=0)
    """Time to live of cached answers and visual tokens, in seconds."""

    answer_cache_bytes: int = Field(default=16 * MiB, ge=0)
    """Size of the answer cache in this process; beyond it the least recently used entries are removed. 0 turns it off.
    Unused with Redis."""

    visual_token_cache_bytes: int = Field(default=256 * MiB, ge=0)
    """Size of the visual-token cache in this process; beyond it the least recently used entries are removed. 0 turns it
    off. Unused with Redis."""
