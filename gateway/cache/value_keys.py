"""Authentication of cached values: a value from Redis is used only if a gateway with the same key wrote it.

A sealed value is an HMAC-SHA256 tag, then the value. The tag covers the level, the cache key and the SHA-256 of the
value, so that a value cannot be moved to another key. Values are not encrypted.

The file of keys has one key a line. The first one seals, and all of them open. To change the key without losing the
cache, put the new key in the second line of every gateway, then in the first, then remove the old one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Final, Self

from fovea.rpc.credential_files import CredentialFiles, CredentialsError, read_text, uncommented
from gateway.cache.base import Level

__all__ = ["TAG_BYTES", "ValueKeys"]

TAG_BYTES: Final = 32
_MAX_KEYS: Final = 8
_KEY: Final = re.compile(r"[\x21-\x7e]{32,512}")


class ValueKeys:
    """Keys that seal and open cached values.

    Args:
        files: Source of the keys; the first one seals.
        namespace: Part of the names in Redis, so that gateways with keys of their own do not meet there; empty for keys
            that gateways share.
    """

    def __init__(self, files: CredentialFiles[Sequence[bytes]], namespace: str = "") -> None:
        self._files = files
        self.namespace = namespace

    @classmethod
    def from_file(cls, path: str) -> Self:
        """Keys in a file, read again when it changes.

        Raises:
            CredentialsError: The file cannot be read, or a line is not a key.
        """
        return cls(CredentialFiles([path], lambda: _read_keys(path)))

    @classmethod
    def of_this_process(cls) -> Self:
        """A random key, which no other gateway has."""
        keys = [secrets.token_bytes(TAG_BYTES)]
        return cls(CredentialFiles([], lambda: keys), namespace=secrets.token_hex(8))

    def seal(self, level: Level, key: str, value: bytes) -> bytes:
        """The sealed value of a cache key."""
        return _tag(self._files.get()[0], level, key, value) + value

    def open(self, level: Level, key: str, sealed: bytes) -> bytes | None:
        """The value of a cache key; None if it was not sealed for this key with one of the keys."""
        value = sealed[TAG_BYTES:]
        tag, facts = sealed[:TAG_BYTES], _facts(level, key, value)
        matches = [hmac.compare_digest(hmac.digest(one, facts, "sha256"), tag) for one in self._files.get()]
        return value if any(matches) else None


def _tag(secret: bytes, level: Level, key: str, value: bytes) -> bytes:
    return hmac.digest(secret, _facts(level, key, value), "sha256")


def _facts(level: Level, key: str, value: bytes) -> bytes:
    """What a tag covers. The value is hashed once, however many keys there are."""
    return b"fovea cache\0%b\0%b\0%b" % (level.encode(), key.encode(), hashlib.sha256(value).digest())


def _read_keys(path: str) -> Sequence[bytes]:
    keys = []
    for number, key in uncommented(read_text(path, "ASCII").splitlines()):
        if not _KEY.fullmatch(key):  # the line is not quoted: it is a secret
            raise CredentialsError(f"{path}: line {number} is not a key of 32 to 512 characters without spaces")
        keys.append(key.encode())
    if not 1 <= len(keys) <= _MAX_KEYS:
        raise CredentialsError(f"{path} holds {len(keys)} keys; 1 to {_MAX_KEYS} are accepted, one a line")
    return keys
