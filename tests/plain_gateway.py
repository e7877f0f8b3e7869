"""A gateway without a model: an HTTP server that answers every request with a given reply."""

from __future__ import annotations

import email
import email.message
import json
import threading
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

from tests.local_http_server import LocalHttpServer


def event(name: str, data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


class PlainGateway(LocalHttpServer):
    """Answers with `reply` once `released` is set; records the requests."""

    status, content_type, reply = 200, "text/event-stream; charset=utf-8", ""
    location = ""
    path = ""
    body = b""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.asked = threading.Event()
        self.released = threading.Event()
        self.released.set()
        self.forms: list[list[tuple[str, bytes]]] = []
        self.authorizations: list[str | None] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        """Statuses and headers of the next responses, before `reply`; the body names both."""

    def answers(self, value: Any, status: int = 200) -> None:
        """Sets the reply to this JSON."""
        self.status, self.content_type, self.reply = status, "application/json", json.dumps(value)

    @property
    def form(self) -> list[tuple[str, bytes]]:
        """Names and contents of the fields of the last form, in order."""
        return self.forms[-1]

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.released.set()
        super().__exit__()


class _Handler(BaseHTTPRequestHandler):
    server: PlainGateway

    def do_GET(self) -> None:
        self.server.path = self.path
        self._reply(self.server.status, {}, self.server.reply)

    def do_POST(self) -> None:
        gateway = self.server
        gateway.authorizations.append(self.headers["authorization"])
        gateway.path, gateway.body = self.path, self.rfile.read(int(self.headers["content-length"]))
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        gateway.forms.append([_part(part) for part in email.message_from_bytes(head + gateway.body).get_payload()])
        gateway.asked.set()
        gateway.released.wait()
        if gateway.refusals:
            status, headers = gateway.refusals.pop(0)
            self._reply(status, headers, json.dumps({"error": {"message": "refused", "code": "overloaded"}}))
        else:
            self._reply(gateway.status, {}, gateway.reply)

    def _reply(self, status: int, headers: dict[str, str], body: str) -> None:
        self.send_response(status)
        self.send_header("content-type", self.server.content_type)
        if self.server.location:
            self.send_header("location", self.server.location)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


def _part(part: Any) -> tuple[str, bytes]:
    return part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
