"""The metrics of the autoscalers: gauges and histograms of the queues, from the endpoints of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fovea.processes.stack import SERVICES, Stack, free_port
from tests.e2e.conftest import STARTUP_S, Client, Pictures
from tests.lab_stack import lab_stack
from tests.waiting import wait_until

TIMEOUT_S = 120
WAITING, RUNNING = "fovea_num_requests_waiting", "fovea_num_requests_running"
ANSWERS = "fovea_gateway_answers_running"
# At this temperature an answer reaches its limit of tokens, so it is still running when the test scrapes.
LONG = {"temperature": 2, "max_tokens": 300, "cache": "bypass"}


class Loaded:
    """A stack whose services compute one request at a time."""

    def __init__(self, stack: Stack, metrics: dict[str, str]) -> None:
        self.client = Client(stack.url)
        self._metrics = metrics

    def scrape(self, service: str) -> dict[str, float]:
        """The samples without labels, by name."""
        families = text_string_to_metric_families(httpx.get(self._metrics[service], trust_env=False).text)
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}

    def until(self, service: str, condition: Callable[[dict[str, float]], bool]) -> None:
        """Scrapes until the samples are the expected ones."""
        self.wait_for(lambda: condition(self.scrape(service)))

    def idle(self, service: str) -> None:
        self.until(service, lambda samples: samples[RUNNING] == samples[WAITING] == 0)

    def gateway_idle(self) -> None:
        self.until("gateway", lambda samples: samples[ANSWERS] == 0)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, TIMEOUT_S, pause_s=0.01)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    addresses = {service: f"127.0.0.1:{free_port()}" for service in SERVICES}
    flags = {service: ["--metrics-listen", address] for service, address in addresses.items()}
    for service in ("encoder_service", "llm_service"):
        flags[service] += ["--max-batch-size", "1"]
    # Without it the same images can be sent again and again, and each goes through the tower.
    flags["encoder_service"] += ["--feature-cache-bytes", "0"]
    with lab_stack(tmp_path_factory.mktemp("loaded") / "log", **flags) as stack:
        stack.wait_ready(STARTUP_S)
        loaded = Loaded(stack, {service: f"http://{address}/metrics" for service, address in addresses.items()})
        with loaded.client.http:
            yield loaded


def test_the_llm_service_tells_who_runs_and_who_waits(loaded: Loaded, picture: bytes) -> None:
    waits = loaded.scrape("llm_service")["fovea_queue_wait_seconds_count"]
    seen: set[str] = set()
    asked = 0
    deadline = time.monotonic() + TIMEOUT_S
    with ThreadPoolExecutor(6) as pool:
        while seen != {"gateway", "llm_service"}:
            assert time.monotonic() < deadline, f"only {seen} ever told its load"
            seeds = range(asked, asked + 6)
            asked += len(seeds)
            answers = [pool.submit(loaded.client.ask, picture, "What do you see?", seed=seed, **LONG) for seed in seeds]
            while not all(answer.done() for answer in answers):
                if loaded.scrape("gateway")[ANSWERS] >= 2:
                    seen.add("gateway")
                samples = loaded.scrape("llm_service")
                if samples[RUNNING] == 1 and samples[WAITING] >= 2:
                    seen.add("llm_service")
            assert all(answer.result()["answer"] for answer in answers)
    loaded.idle("llm_service")
    loaded.gateway_idle()
    assert loaded.scrape("llm_service")["fovea_queue_wait_seconds_count"] == waits + asked


def test_the_encoder_service_tells_who_runs_and_who_waits(loaded: Loaded, pictures: Pictures) -> None:
    waits = loaded.scrape("encoder_service")["fovea_encoder_queue_wait_seconds_count"]
    images = [pictures.fresh() for _ in range(8)]
    seen: set[str] = set()
    asked = 0
    deadline = time.monotonic() + TIMEOUT_S
    with ThreadPoolExecutor(8) as pool:
        while seen != {WAITING, RUNNING}:
            assert time.monotonic() < deadline, f"of the gauges only {seen} were ever above 0"
            answers = [pool.submit(loaded.client.ask, image, "What do you see?", cache="bypass") for image in images]
            asked += len(answers)
            while not all(answer.done() for answer in answers):
                samples = loaded.scrape("encoder_service")
                seen |= {name for name in (WAITING, RUNNING) if samples[name] > 0}
            assert all(answer.result()["answer"] for answer in answers)
    loaded.idle("encoder_service")
    assert loaded.scrape("encoder_service")["fovea_encoder_queue_wait_seconds_count"] == waits + asked
