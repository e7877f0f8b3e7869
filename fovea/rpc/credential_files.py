"""Certificates, keys and bearer tokens in files that are read again when they change, while a service runs."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from fovea import telemetry

__all__ = ["CredentialFiles", "CredentialsError", "pem_errors", "read_text", "uncommented"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class CredentialsError(ValueError):
    """A certificate, key or token file that cannot be used. The text is for the operator and may hold paths."""


class CredentialFiles(Generic[T]):
    """A value that `load` reads from files, read again once one of the files has changed.

    A change that cannot be used is logged once, and the last good value stays. A certificate and a key that are
    written one after the other, or a mistake in one of them, do not stop the service. Thread-safe.

    Args:
        paths: files to check for changes; links are followed.
        load: function that reads the files.

    Raises:
        CredentialsError: the files cannot be used at the first read.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], T]) -> None:
        self._paths = [Path(path) for path in paths]
        self._load = load
        self._lock = threading.Lock()
        self._loaded_state = self._state()  # taken before the read, so that a change during the read is noticed
        self._value = load()

    def get(self) -> T:
        """The value of the files as they are now."""
        with self._lock:
            state = self._state()
            if state != self._loaded_state:
                self._loaded_state = state
                try:
                    self._value = self._load()
                except CredentialsError as error:
                    telemetry.count_failure(telemetry.FailureKind.CREDENTIALS)
                    log.error("keeping the last good credentials: %s", error)
                else:
                    log.info("read again: %s", ", ".join(path.name for path in self._paths))
            return self._value

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_file_state(path) for path in self._paths]


def read_text(path: str | Path, encoding: str = "UTF-8") -> str:
    """Text of a file.

    Raises:
        CredentialsError: the file cannot be read, or is not in this encoding.
    """
    try:
        return Path(path).read_text(encoding)
    except OSError as error:
        raise CredentialsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:  # it holds the bytes of the file
        raise CredentialsError(f"{path} is not a text file in {encoding}") from None


def uncommented(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is neither empty nor begins with #, without the space around it."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text


@contextmanager
def pem_errors(files: str) -> Iterator[None]:
    """Errors of OpenSSL in reading PEM files, as CredentialsError.

    Args:
        files: what is read, for the message.
    """
    try:
        yield
    except ssl.SSLError as error:
        reason = error.reason or "not in PEM form, or the key is encrypted"
        raise CredentialsError(f"{files}: {reason}") from error
    except OSError as error:
        raise CredentialsError(f"{files}: {error.strerror}") from error


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """Modification time, inode and size of a file; None where it cannot be read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
