"""Traces of requests by OpenTelemetry, where the extra `otel` is installed and an endpoint is set; else nothing.

A span ends without waiting: it is put into a bounded queue, which a thread of its own exports. What the queue or the
collector does not take is dropped and counted. See docs/adr/0034-own-spans-instead-of-instrumentation.md.
"""

from __future__ import annotations

import contextvars
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from fovea.telemetry import FailureKind, count_failure

__all__ = ["TRACEPARENT_KEY", "TracingError", "current", "is_on", "record", "span", "start", "traceparent"]

TRACEPARENT_KEY: Final = "traceparent"
"""HTTP header and gRPC metadata that names the trace and the calling span, of W3C Trace Context."""

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_MAX_QUEUED: Final = 4096
_MAX_BATCH: Final = 512
_EXPORT_TIMEOUT_S: Final = 5.0
_BATCH_DELAY_S: Final = 0.5
_STOP_TIMEOUT_S: Final = 2.0

_tracer: Any = None
_current: contextvars.ContextVar[Any] = contextvars.ContextVar("span", default=None)


class TracingError(ValueError):
    """Traces cannot be exported: the packages are missing, or the endpoint is not a URL."""


def start(service: str, endpoint: str) -> None:
    """Starts to export traces. Call once in a process, and not before worker processes are forked.

    Args:
        service: name of the service in the traces.
        endpoint: URL of an OTLP collector over gRPC, http://HOST:PORT or https://HOST:PORT; empty for no traces.

    Raises:
        TracingError: the extra `otel` is not installed, or `endpoint` is not of the form.
    """
    if not endpoint:
        return
    if not re.fullmatch(r"https?://[^/\s]+:\d+", endpoint):
        raise TracingError("--otlp-endpoint is not of the form http://HOST:PORT or https://HOST:PORT")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError as error:
        raise TracingError(f"--otlp-endpoint needs OpenTelemetry ({error}): pip install 'fovea[otel]'") from error
    global _tracer
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http:"), timeout=_EXPORT_TIMEOUT_S)
    provider.add_span_processor(_QueuedExport(exporter))  # type: ignore[arg-type]
    _tracer = provider.get_tracer("fovea")


def is_on() -> bool:
    """Whether traces are exported."""
    return _tracer is not None


def current() -> Any:
    """The span of the calling task; None without one."""
    return _current.get()


def traceparent() -> str:
    """Value of `TRACEPARENT_KEY` for a call of this task; empty without a span."""
    now = _current.get()
    if now is None:
        return ""
    context = now.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


@contextmanager
def span(name: str, *, caller: str = "", is_server: bool = False) -> Iterator[dict[str, Any]]:
    """Span of what runs in the block, and parent of the spans in it. An exception marks it as failed.

    Args:
        name: name of the span.
        caller: value of `TRACEPARENT_KEY` of a request; not used if it is malformed. Empty for the span of this task.
        is_server: whether the block answers a request of another process.

    Yields:
        Attributes to set, which the span takes at its end.
    """
    attributes: dict[str, Any] = {}
    if _tracer is None:
        yield attributes
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    parent = _remote(caller) if is_server else _current.get()
    opened = _tracer.start_span(name, _context(parent), kind=SpanKind.SERVER if is_server else SpanKind.INTERNAL)
    before = _current.get()
    _current.set(opened)
    try:
        yield attributes
    except BaseException as error:
        attributes.setdefault("error.type", str(getattr(error, "code", "") or type(error).__name__))
        opened.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        _current.set(before)  # no token: a generator may be closed in another context
        opened.set_attributes(attributes)
        opened.end()


def record(parent: Any, stages: Mapping[str, float], *, ended_at: float) -> None:
    """Adds spans of consecutive stages that have ended. Any thread may call this.

    Args:
        parent: span to which they belong, from `current`; None to add nothing.
        stages: seconds of each stage, in order.
        ended_at: end of the last one, in seconds of `time.perf_counter`.
    """
    if parent is None or _tracer is None:
        return
    end_ns = time.time_ns() - round((time.perf_counter() - ended_at) * 1e9)
    at_ns = end_ns - round(sum(stages.values()) * 1e9)
    for name, seconds in stages.items():
        stage = _tracer.start_span(name, _context(parent), start_time=at_ns)
        at_ns += round(seconds * 1e9)
        stage.end(at_ns)


def _context(parent: Any) -> Any:
    """OpenTelemetry's context with a span; an empty one without, so that no global context is used."""
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    return Context() if parent is None else set_span_in_context(parent, Context())


def _remote(caller: str) -> Any:
    """The span that a caller names; None if the value is malformed."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    match = _TRACEPARENT.fullmatch(caller)
    if match is None:
        return None
    trace_id, span_id, flags = (int(group, 16) for group in match.groups())
    return NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)))


class _QueuedExport:
    """Span processor with a bounded queue and a thread that exports. It has the methods of OpenTelemetry's own.

    Args:
        exporter: exporter of spans.
        max_queued: most spans in the queue; further ones are dropped and counted.
    """

    def __init__(self, exporter: Any, max_queued: int = _MAX_QUEUED) -> None:
        self._exporter = exporter
        self._queue: queue.Queue[Any] = queue.Queue(max_queued)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Does nothing: spans are exported at their end."""

    def _on_ending(self, span: Any) -> None:
        """Does nothing, see `on_start`."""

    def on_end(self, span: Any) -> None:
        """Queues a span without waiting."""
        if not span.context.trace_flags.sampled:
            return
        try:
            self._queue.put_nowait(span)
        except queue.Full:
            count_failure(FailureKind.SPANS)

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Whether nothing waits; it does not wait either."""
        return self._queue.empty()

    def shutdown(self) -> None:
        """Exports what waits, for `_STOP_TIMEOUT_S` at most."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            batch = self._batch()
            if batch and not self._export(batch):
                count_failure(FailureKind.SPANS, len(batch))

    def _batch(self) -> Sequence[Any]:
        try:
            batch = [self._queue.get(timeout=_BATCH_DELAY_S)]
        except queue.Empty:
            return []
        self._stopping.wait(_BATCH_DELAY_S)  # for the other spans of the answer
        while len(batch) < _MAX_BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _export(self, batch: Sequence[Any]) -> bool:
        try:
            return bool(self._exporter.export(batch).value == 0)
        except Exception:  # the thread must survive every batch
            return False
