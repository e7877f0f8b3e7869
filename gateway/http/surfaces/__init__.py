"""Surfaces of the gateway: each module has a `router` with its paths. A new surface is a module here, nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from fastapi import APIRouter

__all__ = ["routers"]


def routers() -> Iterator[APIRouter]:
    """The router of each surface, in the order of the modules' names.

    Raises:
        AttributeError: A module has no router.
    """
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        yield importlib.import_module(f"{__name__}.{module.name}").router
