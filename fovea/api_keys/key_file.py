"""The file of API keys as the gateway reads it, and as the command line changes it."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fovea.api_keys.key_lines import ApiKey, parse_lines
from fovea.rpc.credential_files import CredentialFiles, CredentialsError, read_text
from fovea.rpc.hashed_tokens import holder_of

__all__ = ["AcceptedKeys", "add_line", "read_keys", "remove_lines"]

log = logging.getLogger(__name__)

_NEW_FILE_MODE: Final = 0o600


class AcceptedKeys:
    """Keys that a gateway accepts, read again when the file changes. A broken change keeps the last good keys.

    A file without any key is no error, because the first one may be added later. It is logged as a warning.

    Args:
        path: file of lines, see fovea.api_keys.key_lines.

    Raises:
        CredentialsError: the file cannot be read, or a line is not of the form.
    """

    def __init__(self, path: str) -> None:
        self._keys = CredentialFiles([path], lambda: _by_digest(path))

    def key_of(self, authorization: str) -> ApiKey | None:
        """The key in `authorization`, the value of the header; None if it has none that is accepted.

        The comparison takes equally long for right, wrong and missing keys.
        """
        return holder_of(authorization, self._keys.get())


def read_keys(path: str | Path) -> list[ApiKey]:
    """Keys of a file.

    Raises:
        CredentialsError: the file cannot be read, or a line is not of the form.
    """
    return _parsed(path, _text(path))


def _text(path: str | Path) -> str:
    try:
        return read_text(path)
    except CredentialsError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            text = f"there is no file of API keys at {path}; fovea keys add NAME --file {path} makes it"
            raise CredentialsError(text) from error
        raise CredentialsError(f"the file of API keys cannot be read: {error}") from error


def _by_digest(path: str) -> list[tuple[str, ApiKey]]:
    keys = read_keys(path)
    if not keys:
        log.warning("%s has no API key: every request is refused with 401; `fovea keys add` adds one", path)
    return [(key.digest, key) for key in keys]


def add_line(path: Path, make: Callable[[list[ApiKey]], ApiKey]) -> None:
    """Adds a key at the end of a file, which is created if it does not exist.

    Args:
        path: file of keys.
        make: function from the keys of the file to the new one.

    Raises:
        CredentialsError: the file cannot be read, or a line is not of the form. It is not changed.
        OSError: the file cannot be written.
    """
    with _exclusive(path) as real_path:
        text = _text(real_path) if real_path.exists() else ""
        line = make(_parsed(path, text)).line
        separator = "\n" if text and not text.endswith("\n") else ""
        _replace(real_path, f"{text}{separator}{line}\n")


def remove_lines(path: Path, is_removed: Callable[[ApiKey], bool]) -> int:
    """Removes keys from a file, and returns their number. Comments and other lines stay as they are.

    Args:
        path: file of keys.
        is_removed: function that returns whether to remove a key.

    Raises:
        CredentialsError: the file cannot be read, or a line is not of the form. It is not changed.
        OSError: the file cannot be written.
    """
    with _exclusive(path) as real_path:
        text = _text(real_path)
        removed = {key.digest for key in _parsed(path, text) if is_removed(key)}
        if removed:
            _replace(real_path, "\n".join(line for line in text.split("\n") if _digest_in(line) not in removed))
        return len(removed)


def _parsed(path: str | Path, text: str) -> list[ApiKey]:
    try:
        return parse_lines(text)
    except ValueError as error:
        raise CredentialsError(f"{path}: {error}") from error


def _digest_in(line: str) -> str | None:
    """The digest of a line; None for a comment."""
    keys = parse_lines(line)
    return keys[0].digest if keys else None


@contextmanager
def _exclusive(path: Path) -> Iterator[Path]:
    """Real path of a file that no other writer changes meanwhile.

    The folder is locked and not the file, because each change puts a new file in its place.
    """
    real_path = path.resolve()
    folder = os.open(real_path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield real_path
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    """Puts a file with this text in place at once, with mode and owner of the file before it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            mode = _NEW_FILE_MODE
            with suppress(FileNotFoundError):
                before = path.stat()
                mode = before.st_mode & 0o7777
                with suppress(PermissionError):  # only the superuser can give a file away
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
