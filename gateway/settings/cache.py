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
