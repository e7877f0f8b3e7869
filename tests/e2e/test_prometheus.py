"""Prometheus scrapes the running services by the shipped configuration, and every query of the dashboard has data."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fovea.processes.stack import SERVICES, Stack, free_port
from tests.documented import ROOT
from tests.e2e.conftest import STARTUP_S, Client, Pictures
from tests.lab_stack import lab_stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus of the package of that name"),
]

DEPLOY = ROOT / "deploy"
JOBS = {"encoder_service": "fovea-encoder", "llm_service": "fovea-llm", "gateway": "fovea-gateway"}
TIMEOUT_S = 240
WINDOW = "2m"
# Panels that have no data without a GPU, or while nothing fails and nothing is refused for load.
QUIET = {"GPU memory", "Failures"}


class Prometheus:
    """A Prometheus on loopback, which ends with the context."""

    def __init__(self, configuration: Path, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._words = [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        self._log = (folder / "prometheus.log").open("wb")

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(self._words, stdout=self._log, stderr=self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def ready(self) -> bool:
        """Whether it answers queries: it listens before that."""
        return httpx.get(f"{self.url}/-/ready", trust_env=False, timeout=TIMEOUT_S).is_success

    def get(self, path: str, **params: str) -> Any:
        response = httpx.get(f"{self.url}/api/v1/{path}", params=params, trust_env=False, timeout=TIMEOUT_S)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def query(self, expression: str) -> list[Any]:
        """Values of a query at this moment that are numbers."""
        return [one for one in self.get("query", query=expression)["result"] if one["value"][1] != "NaN"]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            assert self._process.poll() is None, "prometheus has ended"
            try:
                if condition():
                    return
            except httpx.TransportError:  # it does not listen yet
                pass
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def wait_for_scrapes(self) -> None:
        """Wait until each service was scraped after this moment: they have their own instants."""
        now = time.time()
        self.wait_for(lambda: len(self.query(f"timestamp(up) > {now}")) == len(SERVICES))


def configure(folder: Path, addresses: dict[str, str]) -> Path:
    """The shipped configuration with the addresses of these services, and short intervals."""
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    assert {one["job_name"] for one in configuration["scrape_configs"]} == set(JOBS.values())
    for one in configuration["scrape_configs"]:
        (service,) = (name for name, job in JOBS.items() if job == one["job_name"])
        one["static_configs"] = [{"targets": [addresses[service]]}]
    shutil.copy(DEPLOY / "prometheus" / "alerts.yaml", folder)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    return path


@pytest.fixture(scope="module")
def addresses() -> dict[str, str]:
    return {service: f"127.0.0.1:{free_port()}" for service in SERVICES}


@pytest.fixture(scope="module")
def scraped(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    flags = {service: ["--metrics-listen", address] for service, address in addresses.items()}
    with lab_stack(tmp_path_factory.mktemp("scraped") / "log", **flags) as stack:
        stack.wait_ready(STARTUP_S)
        yield stack


def test_every_query_of_the_dashboard_has_data(
    scraped: Stack, addresses: dict[str, str], pictures: Pictures, tmp_path: Path
) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    client = Client(scraped.url)

    def ask(image: bytes, question: str) -> None:
        client.ask(image, question, max_tokens=8)

    def refused() -> None:
        url = f"{scraped.url}/v1/answer"
        assert httpx.post(url, json={"question": 1}, trust_env=False, timeout=TIMEOUT_S).status_code == 422

    with client.http, Prometheus(configure(tmp_path, addresses), tmp_path) as prometheus:
        prometheus.wait_for(prometheus.ready)
        prometheus.wait_for(lambda: len(prometheus.query("up == 1")) == len(SERVICES))
        # A series that begins between two scrapes has no rate before its next change.
        image = pictures.fresh()
        ask(image, "What do you see?")
        refused()
        prometheus.wait_for_scrapes()
        for question in ("What do you see?", "How many shapes are there?"):
            ask(pictures.fresh(), question)
        ask(image, "Which colours are there?")  # its features are cached
        refused()
        empty = {
            (panel["title"], target["expr"].replace("$__rate_interval", WINDOW))
            for panel in dashboard["panels"]
            if panel["title"] not in QUIET
            for target in panel.get("targets", ())
        }

        def all_had_data() -> bool:
            # Not all at the same time: a rate is no number again once its window has passed.
            empty.difference_update([query for query in empty if prometheus.query(query[1])])
            return not empty

        try:
            prometheus.wait_for(all_had_data)
        except AssertionError:
            pytest.fail(f"no data: {empty}")
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert rules
        prometheus.wait_for(
            lambda: all(
                rule["health"] == "ok" for group in prometheus.get("rules")["groups"] for rule in group["rules"]
            )
        )
        hits = prometheus.query('sum by (level) (fovea_cache_lookups_total{outcome="hit"})')
        assert {"features"} <= {one["metric"]["level"] for one in hits if float(one["value"][1]) > 0}
