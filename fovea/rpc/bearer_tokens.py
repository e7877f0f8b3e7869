"""Bearer tokens, one for each edge site.

A site holds its token in a file. A service holds a file of lines SITE=SHA256, with the SHA-256 of the token in
hexadecimal. The service's file therefore grants no access by itself. Tokens are 256 random bits, for which a plain hash
is enough. A site may have two lines while its token is being changed. A site whose line is removed is refused from its
next call on.

`python -m fovea.rpc.bearer_tokens SITE` prints a new token and its line.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sys
from pathlib import Path
from typing import Final

from fovea.rpc.credential_files import CredentialFiles, CredentialsError

__all__ = ["AUTHORIZATION", "SiteTokens", "bearer", "main", "token_line", "watch_token"]

AUTHORIZATION: Final = "authorization"
"""Metadata key of the token."""

_SCHEME: Final = "Bearer "
_LINE: Final = re.compile(r"([A-Za-z0-9._-]{1,64})\s*=\s*([0-9a-f]{64})")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


def bearer(token: str) -> tuple[str, str]:
    """Metadata entry of a call with `token`."""
    return (AUTHORIZATION, f"{_SCHEME}{token}")


def token_line(site: str, token: str) -> str:
    """Line of a service's token file that accepts `token` for `site`."""
    return f"{site}={_digest(token)}"


def watch_token(path: str) -> CredentialFiles[str]:
    """Token in a site's file, read again when the file changes.

    Raises:
        CredentialsError: the file cannot be read, or does not hold one token.
    """

    def load() -> str:
        token = _read(path).strip()
        if not _TOKEN.fullmatch(token):
            raise CredentialsError(f"{path} does not hold one token of 16 to 512 letters, digits and ._~+/=-")
        return token

    return CredentialFiles([path], load)


class SiteTokens:
    """Sites that a service accepts, read again when the file changes.

    Args:
        path: file of lines SITE=SHA256; empty lines and lines that begin with # are ignored.

    Raises:
        CredentialsError: the file cannot be read, or a line is not of that form.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._sites = CredentialFiles([path], self._load)

    def _load(self) -> list[tuple[str, str]]:
        sites = []
        for number, line in enumerate(_read(self._path).splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:  # the line is not quoted: it may be a token put here by mistake
                raise CredentialsError(f"{self._path}: line {number} is not SITE=SHA256 in hexadecimal")
            sites.append((match[1], match[2]))
        return sites

    def site_of(self, authorization: str) -> str | None:
        """Site whose token is in `authorization`, the metadata value; None if there is none.

        The comparison takes equally long for right and wrong tokens.
        """
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        digest = _digest(token)
        match = None
        for site, expected in self._sites.get():
            if hmac.compare_digest(digest, expected):
                match = site
        return match if scheme.lower() == _SCHEME.lower() else None


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
    """Command line: prints a new token and its line; returns the exit status."""
    if len(argv) != 1 or not _LINE.fullmatch(token_line(argv[0], "")):
        print("usage: python -m fovea.rpc.bearer_tokens SITE    (letters, digits, . _ -)", file=sys.stderr)
        return 2
    token = secrets.token_urlsafe(32)
    print(f"token, for the site's own file:    {token}")
    print(f"line, for the file of the service: {token_line(argv[0], token)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
