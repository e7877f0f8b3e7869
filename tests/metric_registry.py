"""The metrics of the three services, as their modules define them, and those that a query of Prometheus reads."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import promql_parser
from prometheus_client.metrics import MetricWrapperBase

import encoder_service.metrics
import gateway.metrics
import llm_service.metrics
from fovea import telemetry
from fovea.modeling import device_memory
from fovea.rpc import load_metrics

__all__ = ["MODULES", "full_name", "metrics_of", "selectors", "series_names"]

MODULES: Final[dict[ModuleType, str]] = {
    telemetry: "all",
    gateway.metrics: "gateway",
    load_metrics: "encoder, LLM",
    device_memory: "encoder, LLM",
    encoder_service.metrics: "encoder",
    llm_service.metrics: "LLM",
}
"""Modules with metrics, and the services that export them."""


def metrics_of(module: ModuleType) -> list[MetricWrapperBase]:
    return [value for value in vars(module).values() if isinstance(value, MetricWrapperBase)]


def full_name(metric: MetricWrapperBase) -> str:
    """Name with the suffix that a counter has."""
    return metric._name + ("_total" if metric._type == "counter" else "")


def series_names(metric: MetricWrapperBase) -> set[str]:
    """Names of the series in a scrape."""
    if metric._type == "histogram":
        return {f"{metric._name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    return {full_name(metric)}


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Selectors of a query; fails on a query that is no PromQL."""
    found = []

    def visit(expression: Any) -> bool:
        selector = getattr(expression, "vector_selector", expression)
        if isinstance(selector, promql_parser.VectorSelector):
            found.append(selector)
        return True

    promql_parser.walk(promql_parser.parse(query), pre_visit=visit)
    return found
