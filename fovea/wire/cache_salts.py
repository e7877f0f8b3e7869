"""Cache salts in messages: the field `cache_salt` of `EncodeRequest` and `GenerateRequest`."""

from __future__ import annotations

from typing import Final

from fovea.errors import InvalidRequest
from fovea.v1 import encoder_pb2, llm_pb2

__all__ = ["MAX_CACHE_SALT_CHARS", "read_cache_salt"]

MAX_CACHE_SALT_CHARS: Final = 128


def read_cache_salt(message: encoder_pb2.EncodeRequest | llm_pb2.GenerateRequest) -> str:
    """Cache salt in a message; empty for none.

    Raises:
        InvalidRequest: The salt is too long.
    """
    salt = str(message.cache_salt)
    if len(salt) > MAX_CACHE_SALT_CHARS:
        raise InvalidRequest(
            f"cache_salt has {len(salt):,} characters; at most {MAX_CACHE_SALT_CHARS} are accepted", param="cache_salt"
        )
    return salt
