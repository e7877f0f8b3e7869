"""Liveness, readiness, metrics."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import generate_latest

from fovea.doctor import network
from fovea.doctor.finding import Finding
from tests.unit.gateway.conftest import Gateway, StartGateway, ask


async def test_ready_when_both_serve_the_same_checkpoint(gateway: Gateway) -> None:
    response = await gateway.http.get("/readyz")
    assert response.status_code == 200, response.text
    assert response.json() == {"status": "ready", "checks": {"encoder": "ok", "llm": "ok", "fingerprints": "ok"}}


@pytest.mark.parametrize("leg", ["encoder", "llm"])
async def test_an_unavailable_service_is_named(gateway: Gateway, leg: str) -> None:
    await gateway.servers[leg].grpc.stop(0)
    response = await gateway.http.get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["checks"][leg] == "not serving"
    assert f"{leg} is not serving" in response.json()["error"]["message"]
    assert (await gateway.http.get("/healthz")).json() == {"status": "ok"}


async def test_a_draining_service_is_not_ready(gateway: Gateway) -> None:
    await gateway.servers["llm"]._health.enter_graceful_shutdown()
    response = await gateway.http.get("/readyz")
    assert (response.status_code, response.json()["checks"]["llm"]) == (503, "not serving")


async def test_different_checkpoints_are_not_ready(gateway: Gateway) -> None:
    gateway.llm.info.fingerprint = "bbbb"
    response = await gateway.http.get("/readyz")
    assert response.status_code == 503
    assert "different checkpoints" in response.json()["error"]["message"]


async def test_an_encoder_whose_basis_the_llm_service_cannot_read_is_not_ready(gateway: Gateway) -> None:
    gateway.encoder.info.wire_basis, gateway.llm.info.wire_basis = "8899aabbccddeeff", "0011223344556677"
    response = await gateway.http.get("/readyz")
    assert response.status_code == 503
    assert "different wire bases" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("settings", "check", "message"),
    [
        (
            {"pruner": "desp"},
            "pruner",
            "pruner is not offered by the encoder service: --pruner desp (GATEWAY_PRUNER); accepted are none, desap,"
            " fovea",
        ),
        ({"pruner": "fastv"}, "pruner", "--pruner fastv (GATEWAY_PRUNER)"),  # of the language model
        (
            {"wire_dtype": "basis"},
            "wire_dtype",
            "wire_dtype is not offered by the encoder service, which has no wire basis: --wire-dtype basis"
            " (GATEWAY_WIRE_DTYPE); accepted are float32, float16, bfloat16, int8, int4, entropy",
        ),
    ],
)
async def test_a_default_that_the_encoder_does_not_offer_is_not_ready(
    start_gateway: StartGateway, settings: dict[str, str], check: str, message: str
) -> None:
    gateway = await start_gateway(**settings)
    response = await gateway.http.get("/readyz")
    assert response.status_code == 503
    assert message in response.json()["error"]["message"]
    assert response.json()["checks"][check] in response.json()["error"]["message"]
    assert response.json()["checks"]["fingerprints"] == "ok"


async def test_defaults_that_the_encoder_offers_are_ready(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(pruner="fovea", wire_dtype="basis")
    gateway.encoder.info.wire_basis = gateway.llm.info.wire_basis = "8899aabbccddeeff"
    response = await gateway.http.get("/readyz")
    assert response.status_code == 200, response.text
    assert {"pruner": "ok", "wire_dtype": "ok"}.items() <= response.json()["checks"].items()


async def test_defaults_are_not_judged_before_the_encoder_reports(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(pruner="desp", encoder="127.0.0.1:1")
    assert "pruner" not in (await gateway.http.get("/readyz")).json()["checks"]


async def _found_by_doctor(gateway: Gateway) -> Finding:
    found = await asyncio.to_thread(lambda: list(network.gateway(str(gateway.http.base_url).rstrip("/"), None)))
    return found[0]


async def test_doctor_advises_to_start_the_services_alike(gateway_over_tcp: Gateway) -> None:
    gateway_over_tcp.llm.info.fingerprint = "bbbb"
    found = await _found_by_doctor(gateway_over_tcp)
    assert "different checkpoints" in found.text
    assert "the same --model and, if it is set, --text-tower" in found.advice


async def test_doctor_advises_the_same_wire_basis(gateway_over_tcp: Gateway) -> None:
    gateway_over_tcp.encoder.info.wire_basis = "8899aabbccddeeff"
    found = await _found_by_doctor(gateway_over_tcp)
    assert "different wire bases" in found.text
    assert "the same --wire-basis" in found.advice


async def test_doctor_advises_another_default(start_gateway: StartGateway) -> None:
    found = await _found_by_doctor(await start_gateway(over_tcp=True, pruner="desp"))
    assert "--pruner desp (GATEWAY_PRUNER)" in found.text
    assert "with a setting that is accepted" in found.advice


async def test_a_wire_basis_of_the_llm_service_alone_does_not_affect_readiness(gateway: Gateway) -> None:
    gateway.llm.info.wire_basis = "0011223344556677"
    assert (await gateway.http.get("/readyz")).status_code == 200


async def test_a_gateway_of_another_checkpoint_is_not_ready(gateway: Gateway) -> None:
    gateway.llm.info.image_token_id = 99
    response = await gateway.http.get("/readyz")
    assert "tokenizes for another checkpoint" in response.json()["checks"]["fingerprints"]


async def test_a_gateway_of_another_family_with_the_same_tokens_is_not_ready(gateway: Gateway) -> None:
    gateway.encoder.info.family = gateway.llm.info.family = "llava_next"
    response = await gateway.http.get("/readyz")
    assert response.status_code == 503
    assert "tokenizes for another checkpoint" in response.json()["checks"]["fingerprints"]
    model = (await gateway.http.get("/v1/models")).json()["data"][0]["id"]
    chat = {"model": model, "messages": [{"role": "user", "content": "What?"}]}
    for path, question in (("/v1/answer", ask()), ("/v1/chat/completions", chat), ("/v1/explain", ask())):
        response = await gateway.http.post(path, json=question)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "checkpoint_mismatch")
        assert "of family llava, and a service one of family llava_next" in response.json()["error"]["message"]
    gateway.encoder.info.family = gateway.llm.info.family = "llava"
    assert (await gateway.answer())["answer"]


async def test_services_that_were_never_there(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(encoder="127.0.0.1:1", llm="127.0.0.1:1")
    response = await gateway.http.get("/readyz")
    assert response.json()["checks"] == {"encoder": "not serving", "llm": "not serving"}
    assert "127.0.0.1" not in response.text


async def test_metrics_count_requests_by_route_and_outcome(gateway: Gateway) -> None:
    await gateway.answer()
    await gateway.refused(404, pruner="magic")
    await gateway.http.get("/made/up/by/a/client")
    text = generate_latest().decode()
    assert 'fovea_requests_total{code="ok",method="POST /v1/answer"}' in text
    assert 'fovea_requests_total{code="not_found",method="POST /v1/answer"}' in text
    assert 'fovea_cache_lookups_total{level="answer",outcome="miss"}' in text
    assert "fovea_wire_bytes_total" in text
    assert "made" not in text


async def test_the_public_port_has_no_metrics(gateway: Gateway) -> None:
    assert (await gateway.http.get("/metrics")).status_code == 404


async def test_methods_that_a_client_makes_up_are_one_metric(gateway: Gateway) -> None:
    for number in range(3):
        assert (await gateway.http.request(f"MADEUP{number}", "/v1/answer")).status_code == 405
        await gateway.http.request(f"MADEUP{number}", "/nowhere")
    text = generate_latest().decode()
    assert "MADEUP" not in text
    assert 'fovea_requests_total{code="not_found",method="other"}' in text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_may_use_head_requests(gateway: Gateway, path: str) -> None:
    assert (await gateway.http.head(path)).status_code == 200
    operations = (await gateway.http.get("/openapi.json")).json()["paths"][path]
    assert set(operations) == {"get"}
