"""Gateway and encoder at the edge, and cuts of their link to the LLM service, which has TLS and bearer tokens."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.wire.namespaces import CLOUD_ADDRESS, NarrowLink, why_not
from fovea.processes.stack import Stack
from fovea.rpc.bearer_tokens import token_line
from tests.certificates import Authority
from tests.e2e.conftest import STARTUP_S, Client, Pictures, data_url
from tests.lab_stack import lab_stack
from tests.waiting import wait_until

REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

TOKEN = "berlin-token-0123456789"
FAST_MBIT_S = 20.0
CRAWL_MBIT_S = 0.008  # so that a short answer takes seconds to arrive
QUESTION = "What do you see?"


class Site:
    """The gateway at the edge, and a client there."""

    def __init__(self, link: NarrowLink, stack: Stack, log: Path, metrics: str) -> None:
        self.link = link
        self._log = log
        self._metrics = metrics
        self._seen = 0
        with link.at("edge"):
            self.client = Client(stack.url)
            self.client.http.get("/healthz")  # connects; the connection stays at the edge

    def encodings(self) -> float:
        with self.link.at("edge"):
            text = httpx.get(self._metrics, trust_env=False).text
        match = re.search(r'fovea_requests_total{code="ok",method="Encode"} (\S+)', text)
        return float(match[1]) if match else 0.0

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        wait_until(condition, timeout_s, lambda: self._log.read_text()[-3000:])

    def noticed(self) -> bool:
        """Whether the gateway has logged an outage of the LLM service since the last time that this was true."""
        count = self._log.read_text().count("the LLM service is unavailable")
        new, self._seen = count > self._seen, max(count, self._seen)
        return new


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    authority = Authority(folder)
    server, box = authority.issue("llm", CLOUD_ADDRESS), authority.issue("box", "berlin.test")
    (folder / "sites").write_text(token_line("berlin", TOKEN))
    (folder / "token").write_text(TOKEN)
    log = folder / "log"
    llm = {
        "tls-cert": server.cert,
        "tls-key": server.key,
        "tls-client-ca": authority.ca,
        "token-file": folder / "sites",
    }
    gateway = {"llm-tls-ca": authority.ca, "llm-tls-cert": box.cert, "llm-tls-key": box.key}
    gateway |= {"llm-token-file": str(folder / "token"), "patience-s": "60"}
    stack = lab_stack(
        log,
        encoder_service=["--metrics-listen", "127.0.0.1:9464"],
        llm_service=[f"--{name}={value}" for name, value in llm.items()],
        gateway=[f"--{name}={value}" for name, value in gateway.items()],
    )
    stack.llm_address = f"{CLOUD_ADDRESS}:50052"
    with NarrowLink() as link:
        link.limit(FAST_MBIT_S)
        try:
            with link.at("cloud"):
                stack.start("llm_service")
            with link.at("edge"):
                stack.start("encoder_service", "gateway")
                stack.wait_ready(STARTUP_S)
            site = Site(link, stack, log, "http://127.0.0.1:9464/metrics")
            yield site
            site.client.http.close()
        finally:
            stack.stop()
    assert TOKEN not in log.read_text()


@pytest.fixture(autouse=True)
def _whole(site: Site) -> Iterator[None]:
    yield
    site.link.mend()
    site.link.limit(FAST_MBIT_S)
    site.wait_for(lambda: site.client.http.get("/readyz").status_code == 200)


def post(site: Site, picture: bytes, **fields: Any) -> dict[str, Any]:
    return site.client.ask(picture, QUESTION, cache="bypass", **fields)


def test_a_cut_in_the_middle_of_an_answer_is_outlasted(site: Site, pictures: Pictures) -> None:
    picture = pictures.fresh()
    whole = post(site, picture)["answer"]
    before = site.encodings()
    site.noticed()
    site.link.limit(CRAWL_MBIT_S)
    body = {"image": data_url(picture), "question": QUESTION, "stream": True, "cache": "bypass", "timeout_s": 110}
    texts, done = [], None
    with site.client.http.stream("POST", "/v1/answer", json=body) as response:
        for name, data in _events(response.iter_lines()):
            assert name != "error", data
            if name == "done":
                done = data
                continue
            texts.append(data["text"])
            if len(texts) == 1:
                site.link.cut()
                site.wait_for(site.noticed)
                site.link.limit(FAST_MBIT_S)
                site.link.mend()
    assert len(texts) > 1
    assert done is not None
    assert "".join(texts) == done["answer"] == whole
    assert site.encodings() == before + 1


def test_a_cut_while_tokens_are_on_their_way_is_outlasted(site: Site, pictures: Pictures) -> None:
    picture = pictures.fresh()
    whole = post(site, picture, pruner="none", wire_dtype="float32")
    before, sent = site.encodings(), site.link.traffic().to_cloud
    site.noticed()
    site.link.limit(CRAWL_MBIT_S)
    body = {"image": data_url(picture), "question": QUESTION, "cache": "bypass", "timeout_s": 110}
    body |= {"pruner": "none", "wire_dtype": "float32"}

    def break_it() -> None:
        site.wait_for(lambda: site.link.traffic().to_cloud > sent + 10_000)
        site.link.cut()
        site.wait_for(site.noticed)
        site.link.limit(FAST_MBIT_S)
        site.link.mend()

    thread = threading.Thread(target=break_it)
    thread.start()
    response = site.client.http.post("/v1/answer", json=body)
    thread.join()
    assert response.status_code == 200, response.text
    assert response.json()["answer"] == whole["answer"]
    assert site.encodings() == before + 1


def test_a_cut_that_outlasts_the_deadline_is_a_504_and_the_next_answer_is_one(site: Site, pictures: Pictures) -> None:
    picture = pictures.fresh()
    site.link.cut()
    response = site.client.post(picture, QUESTION, timeout_s=3)
    assert response.status_code == 504, response.text
    assert response.json()["error"]["code"] == "deadline_exceeded"
    site.link.mend()
    answer = site.client.ask(picture, QUESTION)
    assert answer["answer"]
    assert answer["cache"]["visual_tokens"] == "hit"  # encoded while the link was cut


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
