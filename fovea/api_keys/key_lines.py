"""Lines of a file of API keys: `NAME SHA256 [tenant=NAME] [requests_per_minute=N] [concurrency=N]
[megapixels_per_minute=N]`.

A line has the SHA-256 of the key in hexadecimal, so that the file grants no access by itself. A name may have several
lines while its key is being changed. Empty lines and lines that begin with # are comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Final

from fovea.rpc.credential_files import uncommented
from fovea.rpc.hashed_tokens import digest_of, new_token

__all__ = ["KEY_PREFIX", "LIMIT_VALUES", "NAME_FORM", "ApiKey", "ClientLimits", "is_name", "new_key", "parse_lines"]

KEY_PREFIX: Final = "fovea-"
"""Start of every key, by which scanners for leaked secrets recognise one."""

NAME_FORM: Final = "1 to 64 letters, digits and . _ -"
LIMIT_VALUES: Final = range(1, 10**6 + 1)
"""Accepted values of a limit."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FORM: Final = (
    "NAME SHA256 [tenant=NAME] [requests_per_minute=N] [concurrency=N] [megapixels_per_minute=N],"
    f" N from {LIMIT_VALUES[0]} to {LIMIT_VALUES[-1]}"
)
_MAX_LINES: Final = 10_000
"""Most lines with a key: every request is compared with all of them."""


@dataclass(frozen=True)
class ClientLimits:
    """Limits of one client. None is no limit.

    Attributes:
        requests_per_minute: Most questions in a minute.
        concurrency: Most questions in progress.
        megapixels_per_minute: Most pixels of images in a minute, in millions.
    """

    requests_per_minute: int | None = None
    concurrency: int | None = None
    megapixels_per_minute: int | None = None

    @property
    def words(self) -> list[str]:
        """Words of a line, one for each limit."""
        return [f"{name}={value}" for name, value in vars(self).items() if value is not None]

    def or_else(self, defaults: ClientLimits) -> ClientLimits:
        """These limits, with those of `defaults` where there is none."""
        missing = {
            field.name: getattr(defaults, field.name) for field in fields(self) if getattr(self, field.name) is None
        }
        return replace(self, **missing)


@dataclass(frozen=True)
class ApiKey:
    """A line of the file.

    Attributes:
        name: Name of the client.
        digest: SHA-256 of the key in hexadecimal.
        tenant: Tenant whose caches the client uses.
        limits: Limits of its own.
    """

    name: str
    digest: str
    tenant: str
    limits: ClientLimits = ClientLimits()

    @property
    def line(self) -> str:
        """The line, without its end."""
        words = [self.name, self.digest]
        if self.tenant != self.name:
            words.append(f"tenant={self.tenant}")
        return " ".join(words + self.limits.words)


def is_name(text: str) -> bool:
    """Whether `text` may be the name of a client or tenant."""
    return _NAME.fullmatch(text) is not None


def new_key(name: str, *, tenant: str | None = None, limits: ClientLimits | None = None) -> tuple[str, ApiKey]:
    """A new key of 256 random bits, and its line.

    Args:
        name: Name of the client.
        tenant: Tenant of the client; None for one of its own, with the client's name.
        limits: Limits of the client; None for none.
    """
    key = KEY_PREFIX + new_token()
    return key, ApiKey(name, digest_of(key), tenant or name, limits or ClientLimits())


def parse_lines(text: str) -> list[ApiKey]:
    """Keys of a file.

    Raises:
        ValueError: A line is not of the form, a key has two lines, or there are too many. The line is not quoted,
            because it may be a key put there by mistake.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in uncommented(text.split("\n")):
        key = _parsed(line.split())
        if key is None:
            raise ValueError(f"line {number} is not {_FORM}")
        if key.digest in keys:
            raise ValueError(f"line {number} has the key of an earlier line; each key has one line")
        if len(keys) == _MAX_LINES:
            raise ValueError(f"more than {_MAX_LINES:,} keys; up to {_MAX_LINES:,} are accepted")
        keys[key.digest] = key
    return list(keys.values())


def _parsed(words: list[str]) -> ApiKey | None:
    """The key of a line; None if the line is not of the form."""
    if len(words) < 2 or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(words[1]):
        return None
    options = dict(word.partition("=")[::2] for word in words[2:])
    if len(options) != len(words) - 2:  # an option is given twice
        return None
    tenant = options.pop("tenant", words[0])
    if not is_name(tenant) or not options.keys() <= {field.name for field in fields(ClientLimits)}:
        return None
    if not all(re.fullmatch(r"[0-9]{1,7}", value) and int(value) in LIMIT_VALUES for value in options.values()):
        return None
    return ApiKey(words[0], words[1], tenant, ClientLimits(**{name: int(value) for name, value in options.items()}))
