"""Requests and tokens are counted by the name of the key, with a bounded number of names."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import REGISTRY

from fovea.api_keys.key_lines import ClientLimits
from gateway.access.clients import Client, client_at
from gateway.http.audit import AuditRecord
from gateway.http.key_metrics import KeyMetrics
from tests.unit.gateway.conftest import StartGateway, ask
from tests.unit.gateway.test_identity import add_key

NO_LIMITS = ClientLimits()


def requests(key: str, code: str = "ok") -> float:
    return REGISTRY.get_sample_value("fovea_gateway_key_requests_total", {"key": key, "code": code}) or 0


def tokens(key: str, kind: str) -> float:
    return REGISTRY.get_sample_value("fovea_gateway_key_tokens_total", {"key": key, "kind": kind}) or 0


async def test_requests_and_tokens_belong_to_the_key(start_gateway: StartGateway, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    header = add_key(keys, "key-metrics-alice")
    gateway = await start_gateway(keys_file=str(keys))
    response = await gateway.http.post("/v1/answer", json=ask(), headers=header)
    usage = response.json()["usage"]
    assert requests("key-metrics-alice") == 1
    assert tokens("key-metrics-alice", "prompt") == usage["prompt_tokens"] > 0
    assert tokens("key-metrics-alice", "completion") == usage["completion_tokens"] > 0

    before = requests("(refused)", "invalid_api_key")
    await gateway.http.post("/v1/answer", json=ask(), headers={"authorization": "Bearer key-metrics-bob"})
    assert requests("(refused)", "invalid_api_key") == before + 1
    assert requests("key-metrics-bob") == 0
    await gateway.http.post("/v1/answer", json={"question": 1}, headers=header)
    assert requests("key-metrics-alice", "invalid_request") == 1


def test_names_beyond_the_bound_are_one_label() -> None:
    counts, other, anonymous = KeyMetrics(max_names=2), requests("(other)"), requests("(anonymous)")
    for name in ("bound-a", "bound-b", "bound-c", "bound-d", "bound-a"):
        counts.count(Client(name, "", NO_LIMITS, has_key=True), "ok", AuditRecord())
    assert (requests("bound-a"), requests("bound-b"), requests("bound-c")) == (2, 1, 0)
    assert requests("(other)") == other + 2
    counts.count(client_at("192.0.2.1", NO_LIMITS), "ok", AuditRecord())
    assert requests("(anonymous)") == anonymous + 1
