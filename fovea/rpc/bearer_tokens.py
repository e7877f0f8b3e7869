"""Bearer tokens, one for each edge site.

A site holds its token in a file. A service holds a file of lines SITE=SHA256, with the SHA-256 of the token in
hexadecimal, and therefore grants no access by itself (fovea.rpc.hashed_tokens). A site may have two lines while its
token is being changed. A site whose line is removed is refused from its next call on.

`python -m fovea.rpc.bearer_tokens SITE` prints a new token and its line.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from fovea.rpc.credential_files import CredentialFiles, CredentialsError, read_text, uncommented
from fovea.rpc.hashed_tokens import SCHEME, digest_of, holder_of, new_token

__all__ = ["AUTHORIZATION", "SiteTokens", "bearer", "main", "token_line", "watch_token"]

AUTHORIZATION: Final = "authorization"
"""Metadata key of the token."""

_LINE: Final = re.compile(r"([A-Za-z0-9._-]{1,64})\s*=\s*([0-9a-f]{64})")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
_USAGE: Final = "usage: python -m fovea.rpc.bearer_tokens SITE    (letters, digits, . _ -, no dash first)"


def bearer(token: str) -> tuple[str, str]:
    """Metadata entry of a call with `token`."""
    return (AUTHORIZATION, f"{SCHEME}{token}")


def token_line(site: str, token: str) -> str:
    """Line of a service's token file that accepts `token` for `site`."""
    return f"{site}={digest_of(token)}"


def watch_token(path: str) -> CredentialFiles[str]:
    """Token in a site's file, read again when the file changes.

    Raises:
        CredentialsError: the file cannot be read, or does not hold one token.
    """

    def load() -> str:
        token = read_text(path).strip()
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
        for number, line in uncommented(read_text(self._path).splitlines()):
            match = _LINE.fullmatch(line)
            if match is None:  # the line is not quoted: it may be a token put here by mistake
                raise CredentialsError(f"{self._path}: line {number} is not SITE=SHA256 in hexadecimal")
            sites.append((match[2], match[1]))
        return sites

    def site_of(self, authorization: str) -> str | None:
        """Site whose token is in `authorization`, the metadata value; None if there is none.

        The comparison takes equally long for right and wrong tokens.
        """
        return holder_of(authorization, self._sites.get())


def main(argv: list[str]) -> int:
    """Command line: prints a new token and its line; returns the exit status."""
    if argv in (["-h"], ["--help"]):
        print(_USAGE)
        return 0
    if len(argv) != 1 or argv[0].startswith("-") or not _LINE.fullmatch(token_line(argv[0], "")):
        print(_USAGE, file=sys.stderr)
        return 2
    token = new_token()
    print(f"token, for the site's own file:    {token}")
    print(f"line, for the file of the service: {token_line(argv[0], token)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
