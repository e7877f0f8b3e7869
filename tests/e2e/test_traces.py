"""One trace an answer: the spans of the three services at a real collector, and answers without one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fovea.processes.stack import SERVICES, Stack, free_port
from tests.e2e.conftest import STARTUP_S, Client, Pictures
from tests.lab_stack import lab_stack
from tests.otlp_collector import Collector, Span

pytestmark = pytest.mark.slow

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# Spans of an answer, and the parent of each.
TREE = {
    ("gateway", "request"): None,
    ("gateway", "encode"): ("gateway", "request"),
    ("encoder service", "Encode"): ("gateway", "encode"),
    ("encoder service", "preprocessing"): ("encoder service", "Encode"),
    ("encoder service", "queue"): ("encoder service", "Encode"),
    ("encoder service", "tower"): ("encoder service", "Encode"),
    ("encoder service", "text_tower"): ("encoder service", "Encode"),
    ("encoder service", "pruning"): ("encoder service", "Encode"),
    ("gateway", "generate"): ("gateway", "request"),
    ("LLM service", "Generate"): ("gateway", "generate"),
    ("LLM service", "queue"): ("LLM service", "Generate"),
    ("LLM service", "prefill"): ("LLM service", "Generate"),
    ("LLM service", "decode"): ("LLM service", "Generate"),
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    flags = {service: ["--otlp-endpoint", collector.endpoint] for service in SERVICES}
    with lab_stack(tmp_path_factory.mktemp("traced") / "log", **flags) as stack:
        stack.wait_ready(STARTUP_S)
        yield stack


def ask(stack: Stack, picture: bytes, traceparent: str) -> None:
    client = Client(stack.url)
    client.http.headers["traceparent"] = traceparent
    with client.http:
        client.ask(picture, "What do you see?", max_tokens=4, cache="bypass")


def test_an_answer_is_one_trace_of_all_services(traced: Stack, collector: Collector, pictures: Pictures) -> None:
    ask(traced, pictures.fresh(), f"00-{TRACE}-{CALLER}-01")
    # The infos of the services are calls of their own, which an answer may have to wait for.
    spans = [one for one in collector.spans_of(TRACE, until=len(TREE)) if one.name != "GetModelInfo"]
    by_name: dict[tuple[str, str], Span] = {(one.service, one.name): one for one in spans}
    assert sorted(by_name) == sorted(TREE)
    assert len(spans) == len(TREE)
    for name, parent in TREE.items():
        assert by_name[name].parent == (CALLER if parent is None else by_name[parent].id), name
    assert by_name["gateway", "request"].attributes["http.route"] == "/v1/answer"
    assert by_name["gateway", "request"].attributes["fovea.outcome"] == "ok"
    for service, stages in (
        ("encoder service", ("preprocessing", "queue")),
        ("encoder service", ("tower", "text_tower", "pruning")),
        ("LLM service", ("queue", "prefill", "decode")),
    ):
        for before, after in itertools.pairwise(by_name[service, stage] for stage in stages):
            assert before.start_ns <= before.end_ns == after.start_ns


def test_a_trace_that_the_caller_does_not_sample_has_no_spans(
    traced: Stack, collector: Collector, pictures: Pictures
) -> None:
    unsampled, sampled = "1" * 32, "2" * 32
    ask(traced, pictures.fresh(), f"00-{unsampled}-{CALLER}-00")
    ask(traced, pictures.fresh(), f"00-{sampled}-{CALLER}-01")
    assert len(collector.spans_of(sampled, until=len(TREE))) >= len(TREE)
    assert collector.spans_of(unsampled, until=1, timeout_s=0) == []


def test_without_a_collector_answers_are_given(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> None:
    flags = {service: ["--otlp-endpoint", f"http://127.0.0.1:{free_port()}"] for service in SERVICES}
    with lab_stack(tmp_path_factory.mktemp("dark") / "log", **flags) as stack:
        stack.wait_ready(STARTUP_S)
        for i in range(3):
            ask(stack, pictures.fresh(), f"00-{i + 3:032x}-{CALLER}-01")
