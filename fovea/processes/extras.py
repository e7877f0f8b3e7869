"""Extras of the distribution: one sentence for the operator where the packages of one are missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

__all__ = ["install_command", "needs_extra"]

_OWN: Final = frozenset({"encoder_service", "fovea", "gateway", "lab", "llm_service"})


def install_command(extra: str) -> str:
    """Command that installs the packages of an extra."""
    return f"pip install 'fovea[{extra}]'"


@contextlib.contextmanager
def needs_extra(extra: str, program: str) -> Iterator[None]:
    """Context of the imports of a program that needs an extra.

    Args:
        extra: name of the extra.
        program: name of the program in the message, such as `python -m gateway`.

    Raises:
        SystemExit: a package of somebody else is missing; with a sentence that names it and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in _OWN:  # a defect of ours
            raise
        raise SystemExit(f"{program}: the package {package} is missing: {install_command(extra)}") from error
