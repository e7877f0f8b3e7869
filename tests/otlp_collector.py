"""Collector of OpenTelemetry on loopback: a gRPC server that keeps the spans it receives."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

__all__ = ["Collector", "Span"]


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Collector that listens at `endpoint` within a `with` block."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spans: list[Span] = []

    def __enter__(self) -> Collector:
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._changed:
            for resource in request.resource_spans:
                (service,) = (
                    one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
                )
                self._spans += [
                    Span(
                        service,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        {one.key: one.value.string_value for one in span.attributes},
                    )
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans_of(self, trace: str, *, until: int, timeout_s: float = 60) -> list[Span]:
        """Spans of a trace, once there are `until` of them; fewer after the timeout."""

        def found() -> list[Span]:
            return [span for span in self._spans if span.trace == trace]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= until, timeout_s)
            return found()
