"""Spans cost a request nothing: the queue is bounded, and what is dropped is counted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from fovea import tracing


def dropped() -> float:
    return REGISTRY.get_sample_value("fovea_failures_total", {"kind": "trace_spans"}) or 0


class StuckExporter:
    """Exporter whose collector takes nothing until it is released, and then refuses."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def export(self, batch: Any) -> SpanExportResult:
        self.entered.set()
        self.release.wait()
        self.batches.append(len(batch))
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        return None


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    processor = tracing._QueuedExport(exporter)
    provider.add_span_processor(processor)  # type: ignore[arg-type]
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    exporter.finish = processor.shutdown  # type: ignore[attr-defined]
    yield exporter
    processor.shutdown()


def test_a_stuck_collector_holds_no_span_up_and_drops_are_counted() -> None:
    exporter, provider = StuckExporter(), TracerProvider(shutdown_on_exit=False)
    processor = tracing._QueuedExport(exporter, max_queued=5)
    provider.add_span_processor(processor)  # type: ignore[arg-type]
    tracer, before = provider.get_tracer("test"), dropped()
    tracer.start_span("first").end()
    assert exporter.entered.wait(60)
    for _ in range(20):  # this thread never waits, else the test would not end
        tracer.start_span("later").end()
    assert dropped() == before + 15
    exporter.release.set()
    processor.shutdown()
    assert sum(exporter.batches) == 6
    assert dropped() == before + 21  # those that the collector refused


def test_stages_are_children_and_a_malformed_caller_begins_a_trace(memory: Any) -> None:
    with tracing.span("request", caller="00-nonsense", is_server=True):
        parent = tracing.current()
        assert tracing.traceparent().startswith(f"00-{parent.get_span_context().trace_id:032x}-")
        tracing.record(parent, {"a": 0.25, "b": 0.5}, ended_at=100.0)
    assert tracing.current() is None
    memory.finish()
    spans = {one.name: one for one in memory.get_finished_spans()}
    assert spans["request"].parent is None
    assert {spans[name].parent.span_id for name in "ab"} == {spans["request"].context.span_id}
    assert [spans[name].end_time - spans[name].start_time for name in "ab"] == [250_000_000, 500_000_000]
    assert spans["a"].end_time == spans["b"].start_time


def test_an_error_marks_the_span(memory: Any) -> None:
    with pytest.raises(KeyError), tracing.span("request"):
        raise KeyError
    memory.finish()
    (one,) = memory.get_finished_spans()
    assert (one.status.is_ok, one.attributes["error.type"]) == (False, "KeyError")


def test_without_an_endpoint_there_are_no_spans() -> None:
    tracing.start("test", "")
    with tracing.span("request", caller="", is_server=True):
        assert tracing.traceparent() == ""
        tracing.record(tracing.current(), {"a": 1.0}, ended_at=0.0)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "ftp://h:1", "http://h", "http://h:1/x"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(tracing.TracingError, match="http://HOST:PORT"):
        tracing.start("test", endpoint)


def test_without_the_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(tracing.TracingError, match=r"pip install 'fovea\[otel\]'"):
        tracing.start("test", "http://127.0.0.1:4317")
