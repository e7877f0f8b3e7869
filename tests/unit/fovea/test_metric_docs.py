"""docs/operations.md lists the metrics that exist, with their types, labels and meaning."""

from __future__ import annotations

import re

from prometheus_client import REGISTRY

from fovea.telemetry import Refusal
from tests.documented import ROOT
from tests.metric_registry import MODULES, full_name, metrics_of

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
ROW = re.compile(r"^\| `(fovea_\w+)` \| (\w+) \| (.*?) ?\| ([\w, ]+) \| (.+) \|$", re.M)


def test_the_table_has_each_metric_as_it_is() -> None:
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), services, meaning)
        for name, kind, labels, services, meaning in ROW.findall(DOCUMENT)
    }
    defined = {
        full_name(metric): (metric._type, tuple(metric._labelnames), services, metric._documentation)
        for module, services in MODULES.items()
        for metric in metrics_of(module)
    }
    assert documented == defined


def test_no_metric_is_defined_elsewhere() -> None:
    defined = {metric for module in MODULES for metric in metrics_of(module)}
    registered = {metric for metric in REGISTRY._collector_to_names if full_name_of(metric).startswith("fovea_")}
    assert registered <= defined


def full_name_of(metric: object) -> str:
    return str(getattr(metric, "_name", ""))


def test_each_reason_of_a_refusal_is_named() -> None:
    assert {reason for reason in Refusal if f"`{reason}`" not in DOCUMENT} == set()
