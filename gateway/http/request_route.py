"""Route of an endpoint that reads the request itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

__all__ = ["RequestRoute"]


class RequestRoute(APIRoute):
    """Route whose endpoint takes the request alone, and returns the response.

    FastAPI documents the route, and solves no parameters for each request: there are none.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        return self.endpoint
