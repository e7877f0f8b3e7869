"""Shared code of encoder service, LLM service and gateway, the client, and the `fovea` command. Imports no service."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fovea.client import AnswerError as AnswerError
    from fovea.client import AsyncClient as AsyncClient
    from fovea.client import Client as Client

__version__ = "0.2.0"

_OF_THE_CLIENT = ("AnswerError", "AsyncClient", "Client")


def __getattr__(name: str) -> Any:
    """`fovea.Client` and its like, imported on first use: services import this package without the client."""
    if name in _OF_THE_CLIENT:
        return getattr(importlib.import_module("fovea.client"), name)
    raise AttributeError(f"module 'fovea' has no attribute {name!r}")
