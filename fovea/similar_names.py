"""The name that was perhaps meant by one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

__all__ = ["similar_name"]

_LIKENESS: Final = 0.6


def similar_name(name: str, names: Iterable[str], *, likeness: float = _LIKENESS) -> str:
    """The most similar of several names; empty if none is similar.

    Args:
        name: name that does not exist.
        names: names that exist.
        likeness: least likeness from 0 to 1, that of `difflib.SequenceMatcher`.
    """
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=likeness)), "")
