"""Methods that prune inside the language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.golden.case import Array, Case, Context

__all__ = ["METHODS"]

METHODS: Final[Mapping[str, Callable[[Case, Context], dict[str, Array]]]] = {}
