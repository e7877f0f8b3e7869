"""Invalid replies of a service: each is one error, within bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from fovea.budget import Budget
from fovea.errors import InternalError
from fovea.rpc.channel import message_options
from fovea.v1 import encoder_pb2, llm_pb2, pruner_pb2, tensor_pb2
from fovea.wire.tensors import to_message
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.clients.llm import LLMClient
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import GenerateSpec, Sampling
from gateway.media.files import MediaFile
from tests.unit.gateway.conftest import png

SPEC = EncodeSpec(
    images=(MediaFile.of(png()),), text_ids=(1, 2), pruner="desap", budget=Budget.count(3), wire_dtype="float16"
)
EXPLAIN_SPEC = replace(SPEC, explain=True)
MESSAGE_BYTES = 2**26
TIMEOUT_S = 60.0


class HostileServer:
    """A server whose methods reply with the bytes of `replies`."""

    def __init__(self) -> None:
        self.replies: Callable[[], Iterator[bytes]] = lambda: iter(())
        self.server = grpc.aio.server(options=message_options(MESSAGE_BYTES))
        once, often = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods = {
            "EncoderService": {"Encode": once(self._once), "GetModelInfo": once(self._once)},
            "LLMService": {"Generate": often(self._often), "GetModelInfo": once(self._once)},
        }
        self.server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(f"fovea.v1.{name}", some) for name, some in methods.items())
        )
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def _once(self, request: bytes, context: Any) -> bytes:
        return next(self.replies())

    async def _often(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for reply in self.replies():
            yield reply


@pytest.fixture
async def hostile() -> AsyncIterator[HostileServer]:
    hostile = HostileServer()
    await hostile.server.start()
    yield hostile
    await hostile.server.stop(0)


@pytest.fixture
async def encoder(hostile: HostileServer) -> AsyncIterator[EncoderClient]:
    client = EncoderClient(hostile.target, max_message_bytes=MESSAGE_BYTES)
    yield client
    await client.close()


@pytest.fixture
async def llm(hostile: HostileServer) -> AsyncIterator[LLMClient]:
    client = LLMClient(hostile.target, max_message_bytes=MESSAGE_BYTES)
    yield client
    await client.close()


async def generate(llm: LLMClient, max_tokens: int = 4, top_logprobs: int | None = None) -> list[Any]:
    encoded = EncodeResult(encoder_pb2.EncodeResponse(visual_tokens=[tensor_pb2.VisualTokens(positions=[0])]))
    spec = GenerateSpec(input_ids=(1,), sampling=Sampling(max_tokens=max_tokens), top_logprobs=top_logprobs)
    return [event async for event in llm.generate(spec, encoded, TIMEOUT_S)]


NOISE = [b"\xff\xff\xff", b"\x0a\x00" * 5_000_000, b"\x78\x01" * 5_000_000, b"\x12\x02\xff\xfe"]
IDS = ["noise", "tiny elements", "unknown fields", "cut"]


@pytest.mark.parametrize("reply", NOISE, ids=IDS)
async def test_invalid_replies_are_internal_errors(
    hostile: HostileServer, encoder: EncoderClient, llm: LLMClient, reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hostile.replies = lambda: iter([reply])
    for call in (encoder.encode(SPEC, None, TIMEOUT_S), encoder.info(), llm.info(), generate(llm)):
        caplog.clear()
        tracemalloc.start()
        with pytest.raises(InternalError, match="service answered with"):
            await call
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * len(reply) + 2**20  # copies inside gRPC
        assert len(caplog.records) <= 1
        assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("delta", ["", "x", "x" * 100_000])
async def test_an_answer_that_never_ends_is_ended(hostile: HostileServer, llm: LLMClient, delta: str) -> None:
    message = llm_pb2.GenerateResponse(delta=llm_pb2.Delta(text=delta)) if delta else llm_pb2.GenerateResponse()
    hostile.replies = lambda: repeat(message.SerializeToString())
    with pytest.raises(InternalError, match="more than was requested"):
        await generate(llm)


def reply(explained: bool = True, **changes: Any) -> encoder_pb2.EncodeResponse:
    """A valid reply for an image of 2 x 3 patches, with changed fields of its VisualTokens or Explanation."""
    message = encoder_pb2.EncodeResponse(pruner="desap", num_tokens_total=[6])
    message.visual_tokens.add(
        features=to_message(np.ones((3, 8), np.float32), tensor_pb2.DTYPE_FLOAT16),
        positions=[0, 1, 2],
        grid=tensor_pb2.Grid(frames=1, rows=2, columns=3),
    )
    message.explanations.add(task_map=[0.5] * 6, merged_into=[0, 1, 2, 0, -1, -1])
    for name, value in changes.items():
        target = (
            message.explanations[0] if name in ("task_map", "saliency_map", "merged_into") else message.visual_tokens[0]
        )
        if name == "grid":
            target.grid.CopyFrom(value)
        elif name == "planes":
            target.planes.extend(to_message(np.ones(shape, np.float32), tensor_pb2.DTYPE_INT8) for shape in value)
        else:
            getattr(target, name)[:] = value
    return message


def grid(*sides: int) -> tensor_pb2.Grid:
    return tensor_pb2.Grid(frames=sides[0], rows=sides[1], columns=sides[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": grid(1, 2, 0)},
        {"grid": grid(1, 2**32 - 1, 2**32 - 1)},
        {"grid": grid(2**20, 1, 2)},
        {"positions": [0, 1, 6]},
        {"positions": [0, 1]},
        {"planes": [(3, 7)]},
        {"planes": [(3, 8), (2, 8)]},
        {"task_map": [0.5] * 5},
        {"task_map": [float("nan")] * 6},
        {"saliency_map": [0.5] * 600},
        {"merged_into": [3] * 6},
        {"merged_into": [-2] * 6},
    ],
    ids=str,
)
async def test_invalid_visual_tokens_are_refused(
    hostile: HostileServer, encoder: EncoderClient, changes: dict[str, Any]
) -> None:
    hostile.replies = lambda: iter([reply().SerializeToString()])
    assert (await encoder.encode(EXPLAIN_SPEC, None, TIMEOUT_S)).num_tokens_kept == 3
    assert EncodeResult.from_bytes(reply().SerializeToString(), EXPLAIN_SPEC) is not None
    hostile.replies = lambda: iter([reply(**changes).SerializeToString()])
    with pytest.raises(InternalError, match="without visual tokens for each image"):
        await encoder.encode(EXPLAIN_SPEC, None, TIMEOUT_S)
    assert EncodeResult.from_bytes(reply(**changes).SerializeToString(), EXPLAIN_SPEC) is None


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, float("nan"), 1),
        (0, 0, float("inf"), 1),
        (0.5, 0, 0.5, 1),
        (0, 0, 1e-8, 1),
        (1, 0, 0, 1),
        (5, 5, 6, 6),
        (-6, -6, -5, -5),
    ],
    ids=str,
)
async def test_an_area_that_shows_nothing_of_the_image_is_refused(
    hostile: HostileServer, encoder: EncoderClient, box: tuple[float, float, float, float]
) -> None:
    message = reply()
    message.viewed.add(left=box[0], top=box[1], right=box[2], bottom=box[3])
    hostile.replies = lambda: iter([message.SerializeToString()])
    with pytest.raises(InternalError, match="without visual tokens for each image"):
        await encoder.encode(EXPLAIN_SPEC, None, TIMEOUT_S)


async def test_times_reasons_and_attention_that_are_none_are_refused(
    hostile: HostileServer, encoder: EncoderClient, llm: LLMClient
) -> None:
    message = reply()
    message.timing.queue_ms = float("nan")
    hostile.replies = lambda: iter([message.SerializeToString()])
    with pytest.raises(InternalError):
        await encoder.encode(EXPLAIN_SPEC, None, TIMEOUT_S)
    timing = llm_pb2.GenerateTiming(queue_ms=float("inf"))
    done = llm_pb2.GenerateResponse(done=llm_pb2.Done(finish_reason="stop", timing=timing))
    hostile.replies = lambda: iter([done.SerializeToString()])
    with pytest.raises(InternalError, match="queue time"):
        await generate(llm)
    unknown = llm_pb2.GenerateResponse(done=llm_pb2.Done(finish_reason="because"))
    hostile.replies = lambda: iter([unknown.SerializeToString()])
    with pytest.raises(InternalError, match="reason for the end"):
        await generate(llm)
    attention = llm_pb2.GenerateResponse(done=llm_pb2.Done(cross_attention=[0.5, float("nan"), 0.5]))
    hostile.replies = lambda: iter([attention.SerializeToString()])
    with pytest.raises(InternalError, match="attention"):
        await llm.cross_attention([1], EncodeResult(reply()), None, TIMEOUT_S)


async def test_a_parameter_whose_default_is_not_of_its_type_is_a_defect(
    hostile: HostileServer, encoder: EncoderClient, llm: LLMClient
) -> None:
    for kind, value in (("integer", float("inf")), ("number", float("nan")), ("integer", "x"), ("number", [1])):
        parameter = pruner_pb2.PrunerParameter(name="beta", type=kind)
        if isinstance(value, str):
            parameter.default.string_value = value
        elif isinstance(value, list):
            parameter.default.list_value.extend(value)
        else:
            parameter.default.number_value = value
        info = pruner_pb2.PrunerInfo(name="desap", side="encoder", parameters=[parameter])
        hostile.replies = lambda info=info: iter(
            [encoder_pb2.GetEncoderInfoResponse(pruners=[info], default_keep_ratio=0.5).SerializeToString()]
        )
        with pytest.raises(InternalError, match="default is not of its type"):
            await encoder.info()
        hostile.replies = lambda info=info: iter(
            [llm_pb2.GetLLMInfoResponse(llm_pruner_infos=[info]).SerializeToString()]
        )
        with pytest.raises(InternalError, match="default is not of its type"):
            await llm.info()
