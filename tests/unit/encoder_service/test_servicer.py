"""The service over a real channel."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import json_format, struct_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.request_media import RequestMedia
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput
from encoder_service.server.servicer import EncoderServicer
from encoder_service.settings import EncoderSettings
from fovea.errors import ServiceError, from_rpc_error
from fovea.rpc.channel import connect
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, tensor_pb2
from fovea.wire import tensors

TEXT = [98, 5, 17, 40, 99]
TIMEOUT_S = 60.0
NUM_PATCHES = 36


class GatedEngine(EncoderEngine):
    """A real engine whose model thread waits until the gate opens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batch_sizes: list[int] = []

    def run(self, batch: Sequence[Sequence[RequestMedia]]) -> Any:
        self.batch_sizes.append(len(batch))
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        return super().run(batch)


@pytest.fixture
def gated(make_engine: Any) -> Iterator[GatedEngine]:
    engine = make_engine(GatedEngine)
    yield engine
    engine.gate.set()


@pytest.fixture
def request_for(make_image: Callable[..., bytes]) -> Callable[..., encoder_pb2.EncodeRequest]:
    def make(*images: int, params: dict[str, Any] | None = None, **fields: Any) -> encoder_pb2.EncodeRequest:
        fields = {"images": [make_image(i) for i in images], "text_ids": TEXT} | fields
        message = encoder_pb2.EncodeRequest(**fields)
        if params is not None:
            message.pruner_params.update(params)
        return message

    return make


def scale_features(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the visual tokens of all pruners `factor` times as large."""
    prune = BoundPruner.prune

    def scaled(pruner: BoundPruner, inputs: PrunerInput) -> PrunedTokens:
        tokens = prune(pruner, inputs)
        return dataclasses.replace(tokens, features=tokens.features * factor)

    monkeypatch.setattr(BoundPruner, "prune", scaled)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110  # waits for the other end of a real connection
            await asyncio.sleep(0)


async def refused(call: Any) -> ServiceError:
    """The client's error for a failed call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, "encoder service")


async def test_encode_answers_with_the_tokens_of_the_default_budget(
    start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:
        reply = await service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
    (tokens,) = reply.visual_tokens
    assert reply.pruner == "desap"
    assert list(reply.num_tokens_total) == [NUM_PATCHES]
    assert len(tokens.positions) == 4  # 0.111 of 36
    assert list(tokens.positions) == sorted(tokens.positions)
    assert (tokens.grid.frames, tokens.grid.rows, tokens.grid.columns) == (1, 6, 6)
    assert tokens.fingerprint == service.engine.model.fingerprint
    assert tokens.features.dtype == tensor_pb2.DTYPE_FLOAT16
    assert tensors.from_message(tokens.features, max_bytes=2**20).shape == (4, 32)
    assert not reply.explanations
    assert reply.timing.decode_ms > 0
    assert reply.timing.forward_ms > 0
    assert reply.timing.batch_size == 1


async def test_encode_of_several_images_answers_in_their_order(start: Any, make_engine: Any, request_for: Any) -> None:
    async with start(make_engine()) as service:
        both = await service.stub.Encode(request_for(0, 1), timeout=TIMEOUT_S)
        second = await service.stub.Encode(request_for(1), timeout=TIMEOUT_S)
    assert len(both.visual_tokens) == 2
    assert both.visual_tokens[1].positions == second.visual_tokens[0].positions


@pytest.mark.parametrize(
    ("budget", "kept"), [({"keep_tokens": 1}, 1), ({"keep_tokens": 999}, 36), ({"keep_ratio": 0.5}, 18)]
)
async def test_encode_keeps_the_budget_of_the_request(
    budget: dict[str, Any], kept: int, start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:
        reply = await service.stub.Encode(request_for(0, **budget), timeout=TIMEOUT_S)
    assert len(reply.visual_tokens[0].positions) == kept


async def test_a_pruner_that_can_chooses_its_budget_and_others_are_refused(
    start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:
        kept = [
            len((await service.stub.Encode(message, timeout=TIMEOUT_S)).visual_tokens[0].positions)
            for message in (
                request_for(0, pruner="fovea", keep_auto=True, params={"target": target}) for target in (0.9, 0.98, 1.0)
            )
        ]
        error = await refused(service.stub.Encode(request_for(0, keep_auto=True), timeout=TIMEOUT_S))
        default = await service.stub.Encode(request_for(0, keep_auto=False), timeout=TIMEOUT_S)
        info = await service.stub.GetModelInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
    assert 1 <= kept[0] < kept[1] < kept[2] == NUM_PATCHES
    assert (error.code, error.param) == ("invalid_request", "keep_tokens")
    assert "desap cannot choose its budget" in error.message
    assert "take fovea" in error.message
    assert len(default.visual_tokens[0].positions) == 4
    assert {one.name for one in info.pruners if one.chooses_budget} == {"fovea"}


async def test_wire_dtypes_differ_only_by_rounding(start: Any, make_engine: Any, request_for: Any) -> None:
    async with start(make_engine()) as service:
        replies = {
            dtype: await service.stub.Encode(request_for(0, wire_dtype=dtype), timeout=TIMEOUT_S)
            for name, dtype in tensors.DTYPES.items()
            if name != "basis"
        }
    exact = tensors.from_message(replies[tensor_pb2.DTYPE_FLOAT32].visual_tokens[0].features, max_bytes=2**20)
    for dtype, relative in ((tensor_pb2.DTYPE_FLOAT16, 2**-10), (tensor_pb2.DTYPE_BFLOAT16, 2**-7)):
        features = replies[dtype].visual_tokens[0].features
        assert features.dtype == dtype
        np.testing.assert_allclose(tensors.from_message(features, max_bytes=2**20), exact, rtol=relative, atol=1e-3)

    for dtype, relative in (
        (tensor_pb2.DTYPE_INT8, 0.005),
        (tensor_pb2.DTYPE_INT4, 0.08),
        (tensor_pb2.DTYPE_ENTROPY, 0.7),
    ):
        features = replies[dtype].visual_tokens[0].features
        assert features.dtype == dtype
        error = tensors.from_message(features, max_bytes=2**20) - exact
        assert np.abs(error).max() <= relative * np.abs(exact).max()


@pytest.mark.parametrize("max_wire_bytes", [200, 300, 500, 900, 1500, 3000, 10_000])
async def test_a_budget_of_bytes_is_kept_and_spent_on_tokens_before_bits(
    max_wire_bytes: int, start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:
        reply = await service.stub.Encode(request_for(0, max_wire_bytes=max_wire_bytes), timeout=TIMEOUT_S)
    (tokens,) = reply.visual_tokens
    assert tokens.ByteSize() <= max_wire_bytes
    if max_wire_bytes >= 900:
        assert len(tokens.positions) == NUM_PATCHES
    assert (tokens.features.dtype == tensor_pb2.DTYPE_FLOAT16) == (max_wire_bytes >= 3000)


async def test_with_a_budget_of_bytes_the_requested_budget_is_a_bound(
    start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:

        async def kept(**fields: Any) -> tuple[int, Any]:
            request = request_for(0, max_wire_bytes=900, **fields)
            (tokens,) = (await service.stub.Encode(request, timeout=TIMEOUT_S)).visual_tokens
            assert tokens.ByteSize() <= 900
            return len(tokens.positions), tokens.features.dtype

        assert await kept(keep_tokens=4) == (4, tensor_pb2.DTYPE_FLOAT16)
        count, dtype = await kept(wire_dtype=tensor_pb2.DTYPE_INT8)
        assert dtype == tensor_pb2.DTYPE_INT8
        assert 10 < count < NUM_PATCHES
        free = {"pruner": "fovea", "keep_auto": True, "params": {"target": 1.0}}
        assert (await kept(**free, wire_dtype=tensor_pb2.DTYPE_INT8))[0] <= count
        both = await service.stub.Encode(request_for(0, 1, max_wire_bytes=1000), timeout=TIMEOUT_S)
        assert sum(tokens.ByteSize() for tokens in both.visual_tokens) <= 1000


async def test_explain_tells_scores_and_clusters(start: Any, make_engine: Any, request_for: Any) -> None:
    async with start(make_engine()) as service:
        desap = await service.stub.Encode(request_for(0, keep_tokens=5, explain=True), timeout=TIMEOUT_S)
        chance = await service.stub.Encode(request_for(0, pruner="random", explain=True), timeout=TIMEOUT_S)
    (explanation,) = desap.explanations
    assert len(explanation.task_map) == len(explanation.saliency_map) == NUM_PATCHES
    assert sum(explanation.saliency_map) <= 1.0
    positions = list(desap.visual_tokens[0].positions)
    assert [explanation.merged_into[position] for position in positions] == [0, 1, 2, 3, 4]
    assert set(explanation.merged_into) == {0, 1, 2, 3, 4}
    assert not chance.explanations[0].task_map
    assert not chance.explanations[0].saliency_map


async def test_pruner_parameters_reach_the_pruner(start: Any, make_engine: Any, request_for: Any) -> None:
    async with start(make_engine()) as service:

        async def positions(**fields: Any) -> list[int]:
            reply = await service.stub.Encode(request_for(0, keep_tokens=6, **fields), timeout=TIMEOUT_S)
            return list(reply.visual_tokens[0].positions)

        saliency = await positions(pruner="cls")
        assert await positions(params={"task_share": 0}) == saliency
        assert await positions(params={"task_share": 1}) != saliency


async def test_a_second_question_on_an_image_uses_its_cached_features(
    start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:
        first = await service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        second = await service.stub.Encode(request_for(0, 1, text_ids=[98, 3, 99]), timeout=TIMEOUT_S)
    assert list(first.features_cached) == [False]
    assert list(second.features_cached) == [True, False]


async def test_features_of_one_tenant_are_not_in_the_cache_of_another(
    start: Any, make_engine: Any, request_for: Any
) -> None:
    reported = []
    async with start(make_engine()) as service:
        for tenant in ("a", "b", "a", "b", "", "ab"):
            reply = await service.stub.Encode(request_for(0, cache_salt=tenant), timeout=TIMEOUT_S)
            reported += reply.features_cached
    assert reported == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("fields", "code", "param", "message"),
    [
        ({"images": []}, "invalid_request", "images", "0 images; 1 to 8"),
        ({"images": [b"x"] * 9}, "invalid_request", "images", "9 images"),
        ({"images": [b"hello"]}, "unsupported_media", "image", "JPEG, PNG, WebP, GIF, BMP"),
        ({"images": [b""]}, "unsupported_media", "image", "empty"),
        ({"images": [bytes(2**20 + 1)]}, "too_large", "image", "1,048,577 bytes"),
        ({"pruner": "magic"}, "not_found", "pruner", "'magic'; accepted: none, desap, visionzip, prumerge"),
        ({"params": {"task_share": 2}}, "invalid_request", "pruner_params", "task_share = 2.0 is not accepted"),
        ({"params": {"depth": 2}}, "invalid_request", "pruner_params", "no parameter 'depth'"),
        ({"keep_tokens": 0}, "invalid_request", "keep_tokens", "at least 1"),
        ({"keep_ratio": 0.0}, "invalid_request", "keep_ratio", r"\(0, 1\]"),
        ({"keep_ratio": float("nan")}, "invalid_request", "keep_ratio", r"\(0, 1\]"),
        ({"wire_dtype": 99}, "invalid_request", "wire_dtype", "float32, float16, bfloat16"),
        ({"max_wire_bytes": 20}, "invalid_request", "max_wire_bytes", r"no room for one visual token.* at least \d+"),
        (
            {"max_wire_bytes": 300, "pruner": "none"},
            "invalid_request",
            "max_wire_bytes",
            "more than max_wire_bytes 300",
        ),
        ({"cache_salt": "x" * 129}, "invalid_request", "cache_salt", "129 characters; at most 128"),
        ({"text_ids": [98, 100, 99]}, "invalid_request", "text_ids", "text id 100 is not below 100"),
        ({"text_ids": [98] * 9000}, "invalid_request", "text_ids", "9000 ids of the text tower's tokenizer.* 8192"),
        ({"params": {"task_share": float("nan")}}, "invalid_request", "pruner_params", "NaN and infinity"),
        ({"params": {"deep": [{"er": -float("inf")}]}}, "invalid_request", "pruner_params", "NaN and infinity"),
    ],
)
async def test_what_is_not_accepted_is_refused_with_its_field(
    fields: dict[str, Any], code: str, param: str, message: str, start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:
        error = await refused(service.stub.Encode(request_for(0, **fields), timeout=TIMEOUT_S))
        assert (error.code, error.param) == (code, param)
        with pytest.raises(type(error), match=message):
            raise error
        assert (await service.stub.Encode(request_for(0), timeout=TIMEOUT_S)).visual_tokens


@pytest.mark.parametrize("character", ["x", "\n", "\u9762"])
@pytest.mark.parametrize(
    ("where", "code", "param"),
    [
        (lambda text: {"params": {text: 1}}, "invalid_request", "pruner_params"),
        (lambda text: {"params": {"task_share": text}}, "invalid_request", "pruner_params"),
        (lambda text: {"params": {"task_share": [{text: text}]}}, "invalid_request", "pruner_params"),
        (lambda text: {"pruner": text}, "not_found", "pruner"),
    ],
)
async def test_an_error_quotes_no_more_than_headers_can_carry(
    where: Callable[[str], dict[str, Any]],
    code: str,
    param: str,
    character: str,
    start: Any,
    make_engine: Any,
    request_for: Any,
) -> None:
    async with start(make_engine()) as service:
        call = service.stub.Encode(request_for(0, **where(character * 20_000)), timeout=TIMEOUT_S)
        error = await refused(call)
    assert (error.code, error.param) == (code, param)
    assert len(error.message) < 500
    assert "accepted" in error.message


async def test_a_feature_too_large_for_the_wire_names_the_dtypes_that_hold_it(
    start: Any, make_engine: Any, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    scale_features(1e6, monkeypatch)
    async with start(engine) as service:
        error = await refused(service.stub.Encode(request_for(0), timeout=TIMEOUT_S))
        assert (error.code, error.param) == ("invalid_request", "wire_dtype")
        assert error.message.endswith("too large for float16; accepted: float32, bfloat16")
        for name in ("float32", "bfloat16"):
            request = request_for(0, wire_dtype=tensors.parse_dtype(name))
            assert (await service.stub.Encode(request, timeout=TIMEOUT_S)).visual_tokens


@pytest.mark.parametrize("name", ["float16", "int8", "int4"])
async def test_what_a_device_cannot_convert_is_refused_with_the_formats_that_hold_it(
    name: str, start: Any, make_engine: Any, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_features(1e12, monkeypatch)
    async with start(make_engine()) as service:
        request = request_for(0, wire_dtype=tensors.parse_dtype(name))
        error = await refused(service.stub.Encode(request, timeout=TIMEOUT_S))
    assert (error.code, error.param) == ("invalid_request", "wire_dtype")
    assert error.message.endswith(f"too large for {name}; accepted: float32, bfloat16")


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
@pytest.mark.parametrize("wire_dtype", [dtype for name, dtype in tensors.DTYPES.items() if name != "basis"])
async def test_features_that_are_not_finite_are_a_defect_of_ours(
    wire_dtype: Any,
    factor: float,
    start: Any,
    make_engine: Any,
    request_for: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine()
    scale_features(factor, monkeypatch)
    async with start(engine) as service:
        error = await refused(service.stub.Encode(request_for(0, wire_dtype=wire_dtype), timeout=TIMEOUT_S))
    assert (error.code, error.param) == ("internal_error", None)
    assert "not finite" in error.message
    assert "128 of 128 features are not finite" in caplog.text


async def test_a_defect_is_reported_without_its_details(
    start: Any, make_engine: Any, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()

    def explode(*args: Any) -> None:
        raise OSError("/secret/path is gone")

    monkeypatch.setattr(engine, "run", explode)
    async with start(engine) as service:
        error = await refused(service.stub.Encode(request_for(0), timeout=TIMEOUT_S))
    assert error.code == "internal_error"
    assert "secret" not in error.message


async def test_questions_that_arrive_while_the_model_is_busy_share_a_batch(
    start: Any, gated: GatedEngine, request_for: Any
) -> None:
    async with start(gated) as service:
        first = service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        await until(gated.entered.is_set)
        others = [service.stub.Encode(request_for(i), timeout=TIMEOUT_S) for i in (1, 2)]
        await until(lambda: len(service.batcher._queue) == 2)
        gated.gate.set()
        assert [(await call).timing.batch_size for call in (first, *others)] == [1, 2, 2]


async def test_health_answers_while_the_model_computes(start: Any, gated: GatedEngine, request_for: Any) -> None:
    async with start(gated) as service:
        call = service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        await until(gated.entered.is_set)
        health = health_pb2_grpc.HealthStub(service.channel)
        reply = await health.Check(health_pb2.HealthCheckRequest(service="fovea.v1.EncoderService"), timeout=TIMEOUT_S)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        assert not call.done()
        gated.gate.set()
        await call


async def test_a_full_queue_refuses_with_a_time_to_come_back(start: Any, gated: GatedEngine, request_for: Any) -> None:
    async with start(gated, max_queue_size=1) as service:
        first = service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        await until(gated.entered.is_set)
        waiting = service.stub.Encode(request_for(1), timeout=TIMEOUT_S)
        await until(lambda: service.batcher.num_waiting == 1)
        error = await refused(service.stub.Encode(request_for(2), timeout=TIMEOUT_S))
        assert error.code == "overloaded"
        assert error.retry_after_s is not None
        gated.gate.set()
        await asyncio.gather(first, waiting)


async def test_a_cancelled_question_is_not_computed(start: Any, gated: GatedEngine, request_for: Any) -> None:
    async with start(gated) as service:
        first = service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        await until(gated.entered.is_set)
        gone = service.stub.Encode(request_for(1), timeout=TIMEOUT_S)
        await until(lambda: len(service.batcher._queue) == 1)
        gone.cancel()
        await until(lambda: service.batcher.num_waiting == 0)
        gated.gate.set()
        await first
        await service.stub.Encode(request_for(2), timeout=TIMEOUT_S)
    assert gated.batch_sizes == [1, 1]


async def test_a_question_past_its_deadline_is_not_computed(start: Any, gated: GatedEngine, request_for: Any) -> None:
    async with start(gated) as service:
        first = service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        await until(gated.entered.is_set)
        error = await refused(service.stub.Encode(request_for(1), timeout=0.05))
        assert error.code == "deadline_exceeded"
        await until(lambda: service.batcher.num_waiting == 0)
        gated.gate.set()
        await first
        await service.stub.Encode(request_for(2), timeout=TIMEOUT_S)
    assert gated.batch_sizes == [1, 1]


async def test_a_call_without_a_deadline_gets_the_services_own(
    start: Any, gated: GatedEngine, request_for: Any
) -> None:
    async with start(gated, default_timeout_s=0.05) as service:
        first = service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        await until(gated.entered.is_set)
        assert (await refused(service.stub.Encode(request_for(1)))).code == "deadline_exceeded"
        gated.gate.set()
        await first


async def test_model_info_has_everything_a_gateway_needs(start: Any, make_engine: Any) -> None:
    async with start(make_engine(), keep_ratio=0.25, wire_dtype="bfloat16", pruner="cls") as service:
        info = await service.stub.GetModelInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
    model = service.engine.model
    assert (info.model, info.family) == ("hub", "llava")  # the last part of the directory, no path
    assert info.fingerprint == model.fingerprint
    assert info.text_tower_fingerprint == model.text_tower_fingerprint
    assert info.settings_fingerprint == model.settings_fingerprint
    assert (info.grid.rows, info.grid.columns, info.hidden_size) == (6, 6, 32)
    assert (info.default_pruner, info.default_keep_ratio) == ("cls", 0.25)
    assert info.default_wire_dtype == tensor_pb2.DTYPE_BFLOAT16
    assert (info.max_text_ids, info.max_images) == (16, 8)
    assert [pruner.name for pruner in info.pruners] == list(PRUNERS)
    desap = next(pruner for pruner in info.pruners if pruner.name == "desap")
    assert desap.reads_text
    assert desap.side == "encoder"
    defaults = {item.name: json_format.MessageToDict(item.default) for item in desap.parameters}
    assert defaults["task_share"] == 0.5
    assert defaults["fcma"] is True
    assert defaults["fcma_clamp_min"] is None
    assert defaults["attn_variant"] == "qqv"
    PRUNERS["desap"].bind(defaults)  # what is described is accepted


async def test_before_the_model_is_loaded_the_service_says_so(checkpoints: Any, request_for: Any) -> None:
    server = GrpcServer(ServerConfig("127.0.0.1:0", max_message_bytes=2**20, max_concurrent_rpcs=8), services=[])
    EncoderServicer(EncoderSettings(model=str(checkpoints.hub)), server)
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    try:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        error = await refused(stub.Encode(request_for(0), timeout=TIMEOUT_S))
        assert (error.code, error.message) == ("unavailable", "the encoder service is loading its model")
    finally:
        await channel.close()
        await server.drain(0)


async def test_while_draining_what_is_under_way_is_finished(start: Any, gated: GatedEngine, request_for: Any) -> None:
    async with start(gated) as service:
        call = service.stub.Encode(request_for(0), timeout=TIMEOUT_S)
        await until(gated.entered.is_set)
        draining = asyncio.create_task(service.server.drain(TIMEOUT_S))
        gated.gate.set()
        assert (await call).visual_tokens
        await draining
        late = connect(f"127.0.0.1:{service.server.port}", max_message_bytes=2**20)
        stub = encoder_pb2_grpc.EncoderServiceStub(late)
        assert (await refused(stub.Encode(request_for(0), timeout=TIMEOUT_S))).code == "unavailable"
        await late.close()


def test_a_struct_of_whole_numbers_is_read_as_whole_numbers() -> None:
    params = struct_pb2.Struct()
    params.update({"cls_layer": -2})
    PRUNERS["desap"].bind(json_format.MessageToDict(params))
