"""A proxy that serves a gateway under a prefix and refuses requests, as a site's own proxy may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx

from tests.local_http_server import LocalHttpServer

__all__ = ["PrefixProxy", "prefix_proxy"]


@dataclass
class PrefixProxy:
    """What the proxy does.

    Attributes:
        gateway: URL of the gateway.
        prefix: prefix of all paths, with a slash at both ends.
        url: URL of the page.
        key: API key that paths under /v1 need; empty for none.
        busy: number of answers that are refused with 429.
        keys: values of Authorization that were sent to paths under /v1.
    """

    gateway: str
    prefix: str = "/eyes/"
    url: str = ""
    key: str = ""
    busy: int = 0
    keys: list[str] = field(default_factory=list)

    def refusal(self, path: str, authorization: str) -> tuple[int, str, str] | None:
        """Status, code and message with which a request is refused; None to pass it on."""
        if not path.startswith("v1/"):
            return None
        self.keys.append(authorization)
        if self.key and authorization != f"Bearer {self.key}":
            return 401, "invalid_api_key", "no accepted API key; send the header Authorization: Bearer KEY"
        if path == "v1/answer" and self.busy > 0:
            self.busy -= 1
            return 429, "rate_limited", "this client is at its limit of 6 requests per minute"
        return None


@contextmanager
def prefix_proxy(gateway: str) -> Iterator[PrefixProxy]:
    """The proxy, running on a free port of loopback."""
    proxy = PrefixProxy(gateway)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            if not self.path.startswith(proxy.prefix):
                self._refuse(404, "not_found", "no such path")
                return
            path = self.path.removeprefix(proxy.prefix)
            refusal = proxy.refusal(path, self.headers.get("Authorization", ""))
            if refusal is not None:
                self._refuse(*refusal)
                return
            headers = {name: self.headers[name] for name in ("Content-Type", "Authorization") if name in self.headers}
            with httpx.stream(
                self.command, f"{proxy.gateway}/{path}", content=body, headers=headers, timeout=60, trust_env=False
            ) as response:
                self._begin(response.status_code, dict(response.headers))
                for chunk in response.iter_raw():
                    self.wfile.write(chunk)

        def _refuse(self, status: int, code: str, message: str) -> None:
            self._begin(
                status, {"content-type": "application/json", "retry-after": "1", "x-request-id": "of-the-proxy"}
            )
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
            self.wfile.write(json.dumps({"error": error}).encode())

        def _begin(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()

    with LocalHttpServer(Handler) as server:
        proxy.url = f"{server.url}{proxy.prefix}"
        yield proxy
