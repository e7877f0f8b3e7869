"""Route of an endpoint that reads the request itself."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

__all__ = ["RequestRoute"]


class RequestRoute(APIRoute):
    """Route whose endpoint takes the request alone, and returns the response.

    FastAPI documents the route. It has no parameters and dependencies to solve, so the endpoint is called at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = self._respond

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
