"""Autoscalers use metrics that the adapter derives from metrics of the services."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import encoder_service.metrics
import gateway.metrics
import llm_service.metrics
from fovea.rpc import load_metrics
from tests.metric_registry import selectors
from tests.unit.deploy.kubernetes.manifests import KUSTOMIZE, Manifests

RUNNING = {"gateway": "fovea_gateway_answers_running"}
# Setting of a service that bounds its running requests.
LIMITS = {"encoder": "max_batch_size", "llm": "max_batch_size", "gateway": "max_concurrent_requests"}


def rules() -> dict[str, dict[str, Any]]:
    values = yaml.safe_load((KUSTOMIZE / "prometheus-adapter.yaml").read_text())
    return {rule["name"]["as"]: rule for rule in values["rules"]["custom"]}


def targets(autoscaler: dict[str, Any]) -> dict[str, str]:
    assert {metric["type"] for metric in autoscaler["spec"]["metrics"]} == {"Pods"}
    metrics = [metric["pods"] for metric in autoscaler["spec"]["metrics"]]
    assert {metric["target"]["type"] for metric in metrics} == {"AverageValue"}
    return {metric["metric"]["name"]: metric["target"]["averageValue"] for metric in metrics}


def series(query: str) -> set[str]:
    """Names of the series in a query; fails on a query that is no PromQL."""
    return {str(selector.name) for selector in selectors(query)}


@pytest.mark.parametrize("name", rules())
def test_a_rule_reads_series_that_the_services_have(name: str) -> None:
    metrics = [
        load_metrics.NUM_REQUESTS_RUNNING,
        gateway.metrics.ANSWERS_RUNNING,
        llm_service.metrics.QUEUE_WAIT_SECONDS,
        encoder_service.metrics.QUEUE_WAIT_SECONDS,
    ]
    registered = {sample.name for metric in metrics for family in metric.collect() for sample in family.samples}
    rule = rules()[name]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="fovea"')
    assert "<<" not in query
    assert series(query) <= registered
    assert series(rule["seriesQuery"]) <= series(query)
    assert {one["resource"] for one in rule["resources"]["overrides"].values()} == {"namespace", "pod"}


def test_autoscalers_ask_for_what_the_adapter_makes(manifests: Manifests) -> None:
    assert set(manifests.of("HorizontalPodAutoscaler")) == set(manifests.ours)
    asked = {name: set(targets(one)) for name, one in manifests.of("HorizontalPodAutoscaler").items()}
    assert set().union(*asked.values()) <= set(rules())
    assert "fovea_encoder_queue_wait_seconds" in asked.get("encoder", {"fovea_encoder_queue_wait_seconds"})
    assert "fovea_queue_wait_seconds" in asked["llm"]


def test_autoscalers_act_before_a_service_is_full(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, autoscaler in manifests.of("HorizontalPodAutoscaler").items():
        limit = getattr(manifests.settings(name, monkeypatch), LIMITS[name])
        assert 0 < int(targets(autoscaler)[RUNNING.get(name, "fovea_num_requests_running")]) < limit


def test_refusals_by_queue_time_begin_long_after_the_autoscalers_act(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = {"encoder": "fovea_encoder_queue_wait_seconds", "llm": "fovea_queue_wait_seconds"}
    for name, autoscaler in manifests.of("HorizontalPodAutoscaler").items():
        if name in waits and waits[name] in targets(autoscaler):
            threshold_s = float(targets(autoscaler)[waits[name]].removesuffix("m")) / 1000
            assert 10 * threshold_s <= manifests.settings(name, monkeypatch).max_queue_time_s


def test_autoscalers_own_the_number_of_pods_within_bounds(manifests: Manifests) -> None:
    for name, autoscaler in manifests.of("HorizontalPodAutoscaler").items():
        spec = autoscaler["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert "replicas" not in manifests.of("Deployment")[name]["spec"], "each apply would set it back"
        assert spec["minReplicas"] < spec["maxReplicas"]
        up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
        assert 0 < up["stabilizationWindowSeconds"] < down["stabilizationWindowSeconds"]
        assert up["policies"]
        assert down["policies"]
