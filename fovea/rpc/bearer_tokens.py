"""Bearer tokens, one an edge site.

A site holds its token in a file. A service holds a file of lines SITE=SHA256, the SHA-256 of a token in hexadecimal: it
knows nothing that would let anybody in. Tokens are 256 random bits, for which a plain hash is enough. A site may have
two lines while its token is being changed; without a line it is shut out at its next call.

`python -m fovea.rpc.bearer_tokens SITE` makes a token and its line.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sys
from pathlib import Path
from typing import Final

from fovea.rpc.file_watcher import CredentialsError, Watched

__all__ = ["AUTHORIZATION", "SiteTokens", "bearer", "main", "token_line", "watch_token"]

AUTHORIZATION: Final = "authorization"
"""The metadata key that carries a token."""

_SCHEME: Final = "Bearer "
_LINE: Final = re.compile(r"([A-Za-z0-9._-]{1,64})\s*=\s*([0-9a-f]{64})")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


def bearer(token: str) -> tuple[str, str]:
    """The metadata of a call with `token`."""
    return (AUTHORIZATION, f"{_SCHEME}{token}")


def token_line(site: str, token: str) -> str:
    """The line of the services' file that lets `site` in with `token`."""
    return f"{site}={_digest(token)}"


def watch_token(path: str) -> Watched[str]:
    """The token in a site's file.

    Raises:
        CredentialsError: The file cannot be read, or holds something else.
    """

    def load() -> str:
        token = _read(path).strip()
        if not _TOKEN.fullmatch(token):
            raise CredentialsError(f"{path} does not hold one token of 16 to 512 letters, digits and ._~+/=-")
        return token

    return Watched([path], load)


class SiteTokens:
    """The sites that a service lets in.

    Args:
        path: The file of lines SITE=SHA256; empty lines and those that begin with # say nothing.

    Raises:
        CredentialsError: The file cannot be read, or a line is not of that form.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._sites = Watched([path], self._load)

    def _load(self) -> list[tuple[str, str]]:
        sites = []
        for number, line in enumerate(_read(self._path).splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:  # the line itself is not shown: it may be a token put here by mistake
                raise CredentialsError(f"{self._path}: line {number} is not SITE=SHA256 in hexadecimal")
            sites.append((match[1], match[2]))
        return sites

    def site_of(self, authorization: str) -> str | None:
        """The site whose token stands in `authorization`; None if there is none. Takes as long for a wrong token."""
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        digest = _digest(token)
        found = None
        for site, expected in self._sites.get():
            if hmac.compare_digest(digest, expected):
                found = site
        return found if scheme.lower() == _SCHEME.lower() else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CredentialsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CredentialsError(f"{path} is not a text file") from error


def main(argv: list[str]) -> int:
    """Prints a new token and its line."""
    if len(argv) != 1 or not _LINE.fullmatch(token_line(argv[0], "")):
        print("usage: python -m fovea.rpc.bearer_tokens SITE    (letters, digits, . _ -)", file=sys.stderr)
        return 2
    token = secrets.token_urlsafe(32)
    print(f"token, for the site's own file:    {token}")
    print(f"line, for the file of the service: {token_line(argv[0], token)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
