"""A wire basis in the service: learned from images, used on request, reported with its digest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from PIL import Image

from encoder_service.basis_learning import learn_basis
from encoder_service.calibrate import main as calibrate
from encoder_service.server.servicer import EncoderServicer
from encoder_service.settings import EncoderSettings
from encoder_service.startup import load
from fovea.errors import from_rpc_error
from fovea.service import serve
from fovea.v1 import encoder_pb2, tensor_pb2
from fovea.wire import basis_file, tensors
from fovea.wire.basis import WireBasis
from fovea.wire.basis_file import BasisError

NUM_PATCHES = 36
TIMEOUT_S = 60.0


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory, checkpoints: Any) -> Path:
    """Wire basis that the command learns from eight images."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(8):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((60, 52), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    out = folder.parent / "learned.basis"
    arguments = ["--model", str(checkpoints.hub), "--text-tower", str(checkpoints.clip), "--device", "cpu"]
    assert calibrate([*arguments, "--pictures", str(folder), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def basis(file: Path) -> WireBasis:
    return basis_file.load(file)


@pytest.fixture
def request_for(make_image: Callable[..., bytes]) -> Callable[..., encoder_pb2.EncodeRequest]:
    """A question about the images of some seeds."""

    def make(*seeds: int, **fields: Any) -> encoder_pb2.EncodeRequest:
        return encoder_pb2.EncodeRequest(images=map(make_image, seeds), text_ids=[98, 5, 6, 99], **fields)

    return make


async def test_tokens_in_a_basis_are_nearer_with_more_bytes(
    start: Any, make_engine: Any, request_for: Any, basis: WireBasis
) -> None:
    async with start(make_engine(), basis=basis) as service:

        async def ask(**fields: Any) -> tensor_pb2.VisualTokens:
            (tokens,) = (await service.stub.Encode(request_for(20, **fields), timeout=TIMEOUT_S)).visual_tokens
            return tokens

        everything = {"pruner": "none"}
        exact = tensors.from_message(
            (await ask(**everything, wire_dtype=tensor_pb2.DTYPE_FLOAT32)).features, max_bytes=2**20
        )
        errors = []
        for max_wire_bytes in (0, 300, 500, 1000):
            message = await ask(**everything, wire_dtype=tensor_pb2.DTYPE_BASIS, max_wire_bytes=max_wire_bytes)
            assert message.features.dtype == tensor_pb2.DTYPE_BASIS
            assert len(message.positions) == NUM_PATCHES
            if max_wire_bytes:
                assert 0.8 * max_wire_bytes <= message.ByteSize() <= max_wire_bytes
            got = tensors.from_message(message.features, max_bytes=2**20, basis=basis)
            errors.append(float(np.square(got - exact).mean() / exact.var()))
    assert errors[0] < 0.4
    assert errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize("max_wire_bytes", [110, 150, 200, 300, 700, 1500, 3000, 10_000])
async def test_a_budget_of_bytes_is_spent_on_all_tokens_before_it_is_spent_on_bits(
    max_wire_bytes: int, start: Any, make_engine: Any, request_for: Any, basis: WireBasis
) -> None:
    async with start(make_engine(), basis=basis) as service:
        reply = await service.stub.Encode(request_for(21, max_wire_bytes=max_wire_bytes), timeout=TIMEOUT_S)
    (tokens,) = reply.visual_tokens
    assert tokens.ByteSize() <= max_wire_bytes
    assert (len(tokens.positions) == NUM_PATCHES) == (max_wire_bytes >= 200)
    expected = {1500: tensor_pb2.DTYPE_INT8, 3000: tensor_pb2.DTYPE_FLOAT16, 10_000: tensor_pb2.DTYPE_FLOAT16}
    assert tokens.features.dtype == expected.get(max_wire_bytes, tensor_pb2.DTYPE_BASIS)


async def test_several_images_share_a_budget_and_a_step(
    start: Any, make_engine: Any, request_for: Any, basis: WireBasis
) -> None:
    async with start(make_engine(), basis=basis) as service:
        reply = await service.stub.Encode(request_for(22, 23, max_wire_bytes=800), timeout=TIMEOUT_S)
    first, second = reply.visual_tokens
    assert first.ByteSize() + second.ByteSize() <= 800
    assert first.features.data[1] == second.features.data[1]


async def test_without_a_basis_it_is_refused_and_the_others_are_named(
    start: Any, make_engine: Any, request_for: Any
) -> None:
    async with start(make_engine()) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Encode(request_for(0, wire_dtype=tensor_pb2.DTYPE_BASIS), timeout=TIMEOUT_S)
        info = await service.stub.GetModelInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
    error = from_rpc_error(caught.value, "encoder")
    assert (error.code, error.param) == ("invalid_request", "wire_dtype")
    assert "has none; accepted: float32, float16, bfloat16, int8, int4, entropy" in error.message
    assert info.wire_basis == ""


async def test_the_service_names_its_basis_and_its_results_are_others_then(
    start: Any, make_engine: Any, basis: WireBasis
) -> None:
    infos = []
    for loaded in (None, basis):
        async with start(make_engine(), basis=loaded) as service:
            infos.append(await service.stub.GetModelInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S))
    assert infos[1].wire_basis == basis.digest.hex()
    assert infos[0].fingerprint == infos[1].fingerprint
    assert infos[0].settings_fingerprint != infos[1].settings_fingerprint


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"wire_dtype": "basis"}, "needs a wire basis"),
        ({"wire_basis": "/nowhere/x.basis"}, "'x.basis' cannot be read"),
    ],
)
async def test_a_service_that_cannot_have_its_basis_does_not_start(
    settings: dict[str, str], says: str, checkpoints: Any
) -> None:
    given = EncoderSettings(
        model=str(checkpoints.hub), text_tower=str(checkpoints.clip), listen="127.0.0.1:0", device="cpu", **settings
    )
    with pytest.raises(BasisError, match=says):
        async with asyncio.timeout(TIMEOUT_S):
            await serve(given, EncoderServicer, load)


async def test_a_service_loads_the_basis_of_its_settings(
    checkpoints: Any, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = EncoderSettings(
        model=str(checkpoints.hub),
        text_tower=str(checkpoints.clip),
        listen="127.0.0.1:0",
        device="cpu",
        wire_basis=str(file),
        wire_dtype="basis",
    )
    service = asyncio.create_task(serve(settings, EncoderServicer, load))
    async with asyncio.timeout(TIMEOUT_S):
        while not service.done() and not any("serving on port" in text for text in caplog.messages):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not service.done()
    service.cancel()
    await asyncio.wait([service])


def test_images_that_cannot_be_read_or_are_too_few_are_reported(
    tmp_path: Path, checkpoints: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(checkpoints.hub), "--text-tower", str(checkpoints.clip), "--device", "cpu"]
    arguments += ["--pictures", str(tmp_path), "--out", str(tmp_path.parent / "x")]
    assert calibrate(arguments) == 1
    assert "no images" in capsys.readouterr().err
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert calibrate(arguments) == 1
    assert "broken.png" in capsys.readouterr().err


def test_the_noise_lies_where_the_reader_does_not_look() -> None:
    random = np.random.default_rng(0)
    images = [random.standard_normal((30, 8)).astype(np.float32) for _ in range(40)]
    reader = np.diag([10, 10, 10, 10, 0.1, 0.1, 0.1, 0.1]).astype(np.float32)
    error = np.zeros(8)
    basis = basis_file.from_bytes(learn_basis(images, reader))
    for one in images:
        message = tensors.to_message(one, tensor_pb2.DTYPE_BASIS, basis=basis, step=basis.step - 8)
        error += np.square(tensors.from_message(message, max_bytes=2**20, basis=basis) - one).mean(axis=0)
    assert error[:4].max() < 0.2 * error[4:].min()
    with pytest.raises(ValueError, match="3 tokens are too few for 8 channels"):
        learn_basis([images[0][:3]])
