"""An OpenAI-compatible endpoint without a model: an HTTP server whose answers a test writes chunk by chunk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.local_http_server import LocalHttpServer

USAGE = {
    "prompt_tokens": 70,
    "completion_tokens": 6,
    "prompt_tokens_details": {"image_tokens": 64, "image_tokens_before": 576},
}


class Exchange:
    """One request, and the answer to it."""

    def __init__(self, handler: _Handler, number: int, body: dict[str, Any]) -> None:
        self._handler = handler
        self.number, self.body = number, body
        self.path, self.headers = handler.path, handler.headers

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def image_urls(self) -> list[str]:
        parts = self.body["messages"][0]["content"]
        return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]

    def start(self, content_type: str = "text/event-stream; charset=utf-8") -> None:
        self._handler.send_response(200)
        self._handler.send_header("content-type", content_type)
        self._handler.send_header("transfer-encoding", "chunked")
        self._handler.end_headers()

    def send(self, data: str) -> None:
        """One chunk of the body."""
        encoded = data.encode()
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(encoded), encoded))
        self._handler.wfile.flush()

    def event(self, value: dict[str, Any]) -> None:
        self.send(f"data: {json.dumps(value)}\n\n")

    def text(self, content: str) -> None:
        self.event({"choices": [{"index": 0, "delta": {"content": content}}]})

    def end(self, usage: dict[str, Any] | None = None, *, done: bool = True) -> None:
        if usage is not None:
            self.event({"choices": [], "usage": usage})
        if done:
            self.send("data: [DONE]\n\n")
        self._handler.wfile.write(b"0\r\n\r\n")

    def break_off(self) -> None:
        """Closes the connection."""
        self._handler.close_connection = True

    def refuse(self, status: int, body: str) -> None:
        self._handler.send_response(status)
        self._handler.send_header("content-length", str(len(body.encode())))
        self._handler.end_headers()
        self._handler.wfile.write(body.encode())


def answer(exchange: Exchange) -> None:
    """A whole answer: a role chunk, three chunks with text, a finish chunk and usage."""
    exchange.start()
    exchange.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    for content in ("a", " b", " c"):
        exchange.text(content)
    exchange.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    exchange.end(USAGE)


class ChatEndpoint(LocalHttpServer):
    """Answers each request with `script`; records the requests."""

    models: Any = {"object": "list", "data": [{"id": "first"}, {"id": "second"}]}  # noqa: RUF012

    api_key: str | None = None
    """Key that the list of models needs; None for none."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.script: Callable[[Exchange], None] = answer
        self.exchanges: list[Exchange] = []
        self._lock = threading.Lock()

    def add(self, handler: _Handler, body: dict[str, Any]) -> Exchange:
        with self._lock:
            exchange = Exchange(handler, len(self.exchanges), body)
            self.exchanges.append(exchange)
            return exchange


class _Handler(BaseHTTPRequestHandler):
    server: ChatEndpoint
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        data = json.dumps(self.server.models).encode()
        key = self.server.api_key
        if key and self.headers["authorization"] != f"Bearer {key}":
            self.send_response(401)
        else:
            self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            self.server.script(self.server.add(self, body))
        except ConnectionError:  # the client has gone away
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass
