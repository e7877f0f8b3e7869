"""Dashboard and rules of Prometheus use metrics that exist; each rule fires on its symptom and is in the documents."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documented import ROOT
from tests.metric_registry import MODULES, metrics_of, selectors, series_names

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['id']} {panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
    for panel in PANELS
    for target in panel["targets"]
}
# Labels of the scrape, and series of Prometheus and its Python client.
SCRAPED = {"job", "instance"}
FOREIGN: dict[str, set[str]] = {
    "up": set(),
    **{
        f"process_{name}": set()
        for name in ("start_time_seconds", "open_fds", "max_fds", "resident_memory_bytes", "cpu_seconds_total")
    },
}
LABELS = FOREIGN | {
    name: {*metric._labelnames, *(["le"] if name.endswith("_bucket") else [])}
    for module in MODULES
    for metric in metrics_of(module)
    for name in series_names(metric)
}
NOT_DRAWN = {"fovea_encoder_cuda_graphs", "fovea_llm_cuda_graphs"}  # their memory is

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool of package prometheus")


@pytest.mark.parametrize("query", [*QUERIES.values(), *(rule["expr"] for rule in RULES.values())])
def test_a_query_reads_series_and_labels_that_exist(query: str) -> None:
    found = selectors(query)
    assert found
    grouped = {label.strip() for labels in re.findall(r"\b(?:by|on) \((.*?)\)", query) for label in labels.split(",")}
    known: set[str] = set()
    for selector in found:
        assert selector.name in LABELS
        assert {matcher.name for matcher in selector.matchers.matchers} <= LABELS[selector.name] | SCRAPED
        known |= LABELS[selector.name]
    assert grouped <= known | SCRAPED


def test_the_dashboard_shows_every_metric() -> None:
    drawn = {str(selector.name) for query in QUERIES.values() for selector in selectors(query)}
    missing = {
        metric._name
        for module in MODULES
        for metric in metrics_of(module)
        if not series_names(metric) & drawn and metric._name not in NOT_DRAWN
    }
    assert missing == set()


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        for target in panel["targets"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(
                re.findall(r"\w+", " ".join(re.findall(r"\bby \((.*?)\)", target["expr"])))
            ), panel["title"]


def test_each_rule_is_in_the_document_with_its_metrics() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    rows = {row[0]: row for row in re.findall(r"^\| `(Fovea\w+)` \| (.+) \| (`.+`) \| (.+) \|$", document, re.M)}
    assert set(rows) == set(RULES)
    for name, rule in RULES.items():
        read = {re.sub(r"_bucket$", "", str(selector.name)) for selector in selectors(rule["expr"])}
        assert set(re.findall(r"`(\w+)`", rows[name][2])) == read, name


@needs_promtool
def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


GATEWAY, ENCODER, LLM = (f'job="fovea-{job}", instance="{job}:9464"' for job in ("gateway", "encoder", "llm"))


def histogram(name: str, job: str, seconds: str, *, share: int) -> dict[str, str]:
    """Histogram in which `share` of 20 observations a minute are above the bound `seconds`."""
    return {
        f'{name}_bucket{{{job}, le="{seconds}"}}': f"0+{20 - share}x60",
        f'{name}_bucket{{{job}, le="300.0"}}': "0+20x60",
        f'{name}_bucket{{{job}, le="+Inf"}}': "0+20x60",
    }


def slow_and_fast(name: str, job: str, seconds: str) -> tuple[dict[str, str], dict[str, str]]:
    """Histograms with 3 of 20 observations above the bound `seconds`, and with none."""
    return histogram(name, job, seconds, share=3), histogram(name, job, seconds, share=0)


def failing(kind: str, per_minute: int) -> dict[str, str]:
    return {f'fovea_failures_total{{{GATEWAY}, kind="{kind}"}}': f"0+{per_minute}x60"}


def refusing(reason: str, per_minute: int) -> dict[str, str]:
    return {f'fovea_refusals_total{{{GATEWAY}, reason="{reason}"}}': f"0+{per_minute}x60"}


def answering(per_minute: int, code: str, failed: int) -> dict[str, str]:
    return {
        f'fovea_requests_total{{{GATEWAY}, method="x", code="ok"}}': f"0+{per_minute}x60",
        f'fovea_requests_total{{{GATEWAY}, method="x", code="{code}"}}': f"0+{failed}x60",
    }


def gauge(name: str, value: float, labels: str = LLM) -> dict[str, str]:
    return {f"{name}{{{labels}}}": f"{value}+0x60"}


FREE, TOTAL = (f'{ENCODER}, kind="{kind}"' for kind in ("free", "total"))
# Series with which each rule fires, and with which it does not.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "FoveaServiceDown": (gauge("up", 0), gauge("up", 1)),
    "FoveaRestarts": (
        {f"process_start_time_seconds{{{LLM}}}": "1+5x60"},
        {f"process_start_time_seconds{{{LLM}}}": "1+0x30 9+0x30"},
    ),
    "FoveaErrors": (answering(100, "internal_error", 10), answering(100, "invalid_request", 90)),
    "FoveaRefusals": (refusing("queue_full", 12), refusing("client_requests", 12)),
    "FoveaClientsAtLimit": (refusing("client_requests", 12), refusing("queue_full", 12)),
    "FoveaEncoderQueue": slow_and_fast("fovea_encoder_queue_wait_seconds", ENCODER, "2.5"),
    "FoveaLLMQueue": slow_and_fast("fovea_queue_wait_seconds", LLM, "2.5"),
    "FoveaSlowFirstToken": slow_and_fast("fovea_gateway_time_to_first_token_seconds", GATEWAY, "5.0"),
    "FoveaSlowTokens": slow_and_fast("fovea_time_per_output_token_seconds", LLM, "0.2"),
    "FoveaSlowPreprocessing": slow_and_fast("fovea_encoder_preprocessing_seconds", ENCODER, "2.5"),
    "FoveaKeyValueCacheFull": (
        gauge("fovea_kv_cache_usage_ratio", 1) | gauge("fovea_num_requests_waiting", 3),
        gauge("fovea_kv_cache_usage_ratio", 1) | gauge("fovea_num_requests_waiting", 0),
    ),
    "FoveaDeviceMemory": (
        gauge("fovea_device_memory_bytes", 1, FREE) | gauge("fovea_device_memory_bytes", 100, TOTAL),
        gauge("fovea_device_memory_bytes", 5, FREE) | gauge("fovea_device_memory_bytes", 100, TOTAL),
    ),
    "FoveaFileDescriptors": (
        gauge("process_open_fds", 90) | gauge("process_max_fds", 100),
        gauge("process_open_fds", 70) | gauge("process_max_fds", 100),
    ),
    "FoveaRedisFailures": (failing("redis", 1), failing("redis", 0)),
    "FoveaCacheEntries": (failing("cache_entry", 1), failing("redis", 1)),
    "FoveaOutages": (failing("outage", 1), failing("redis", 1)),
    "FoveaCredentials": (failing("credentials", 1), failing("credentials", 0)),
    "FoveaSpans": (failing("trace_spans", 1), failing("redis", 1)),
    "FoveaWorkers": (failing("worker_died", 1), failing("redis", 1)),
    "FoveaBatchErrors": (failing("encoder_batch", 1), failing("redis", 1)),
}


def test_each_rule_has_its_case() -> None:
    assert set(CASES) == set(RULES)


@needs_promtool
def test_each_rule_fires_on_its_symptom_and_on_nothing_else(tmp_path: Path) -> None:
    tests: list[dict[str, Any]] = []
    for name, (symptom, healthy) in CASES.items():
        for series, count in ((symptom, 1), (healthy, 0)):
            tests.append(
                {
                    "interval": "1m",
                    "name": f"{name} {count}",
                    "input_series": [{"series": one, "values": values} for one, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
                            "eval_time": "50m",
                            "exp_samples": [{"labels": "{}", "value": count}],
                        }
                    ],
                }
            )
    case = {"rule_files": [str(PROMETHEUS / "alerts.yaml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(case))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
