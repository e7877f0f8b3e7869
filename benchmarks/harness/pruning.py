"""Pruning of requests to running services that a benchmark does not vary."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["PRUNING"]

PRUNING: Final[Mapping[str, str]] = MappingProxyType({"pruner": "desap", "keep_ratio": "0.111"})
"""Form fields. They are named in each request, because a checkpoint may recommend another default (`fovea.json`)."""
