"""The field `image_fit`: its default, refusals, the feature cache, and the viewed area in the response."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import grpc.aio
import numpy as np
import pytest

from benchmarks.checkpoints.tiny import clip, llava_next
from encoder_service.__main__ import main
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.media.decoding import media_digest
from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.models.media import MediaOptions
from encoder_service.pruners import PRUNERS
from encoder_service.server.responses import describe
from encoder_service.settings import EncoderSettings
from fovea.budget import Budget
from fovea.errors import InvalidRequest, from_rpc_error
from fovea.v1 import encoder_pb2

TEXT = [98, 5, 17, 40, 99]
TIMEOUT_S = 60.0
WIDE = (240, 60)
CROP, PAD = encoder_pb2.IMAGE_FIT_CROP, encoder_pb2.IMAGE_FIT_PAD
MIDDLE = (0.375, 0, 0.625, 1)
SQUARE = (0, -1.5, 1, 2.5)


def message(file: bytes, fit: int = 0, **fields: Any) -> encoder_pb2.EncodeRequest:
    return encoder_pb2.EncodeRequest(images=[file], text_ids=TEXT, image_fit=fit, keep_ratio=1.0, **fields)


def viewed(reply: encoder_pb2.EncodeResponse) -> list[tuple[float, ...]]:
    return [(box.left, box.top, box.right, box.bottom) for box in reply.viewed]


def tokens(reply: encoder_pb2.EncodeResponse) -> bytes:
    return reply.visual_tokens[0].features.data


@pytest.fixture
def wide(make_image: Callable[..., bytes]) -> bytes:
    return make_image(3, size=WIDE)


@pytest.fixture(scope="module")
def tiles_model(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    root = tmp_path_factory.mktemp("tiles")
    folder, text_tower = llava_next.write(root / "model"), clip.write(root / "clip")
    return load(str(folder), LoadOptions(text_tower=str(text_tower), device="cpu"))


@pytest.mark.parametrize(
    ("setting", "fit", "box"),
    [("crop", 0, MIDDLE), ("crop", PAD, SQUARE), ("pad", 0, SQUARE), ("pad", CROP, MIDDLE), ("pad", PAD, SQUARE)],
)
async def test_the_request_wins_over_the_setting(
    setting: str, fit: int, box: tuple[float, ...], start: Any, make_engine: Any, wide: bytes
) -> None:
    async with start(make_engine(), image_fit=setting) as service:
        reply = await service.stub.Encode(message(wide, fit), timeout=TIMEOUT_S)
    assert viewed(reply) == [box]


async def test_features_are_cached_by_image_and_fit(start: Any, make_engine: Any, wide: bytes) -> None:
    async with start(make_engine()) as service:
        replies = [
            await service.stub.Encode(message(wide, fit), timeout=TIMEOUT_S) for fit in (CROP, PAD, PAD, CROP, 0)
        ]
    assert [list(reply.features_cached) for reply in replies] == [[False], [False], [True], [True], [True]]
    crop, pad, again, first, default = map(tokens, replies)
    assert crop != pad
    assert (again, first, default) == (pad, crop, crop)
    assert [viewed(reply) for reply in replies] == [[MIDDLE], [SQUARE], [SQUARE], [MIDDLE], [MIDDLE]]


def test_one_batch_has_both_fits_of_an_image(make_engine: Any, wide: bytes) -> None:
    requests = [
        EncodeRequest(
            (wide,), tuple(TEXT), PRUNERS["none"].bind({}), Budget.ratio(1.0), media_options=MediaOptions(fit)
        )
        for fit in ("crop", "pad")
    ]
    engine = make_engine(cache_bytes=0)
    alone = [engine.run([engine.prepare(request)])[0] for request in requests]
    together = engine.run([engine.prepare(request) for request in requests])
    for (got,), (want,) in zip(together, alone, strict=True):
        np.testing.assert_allclose(got.features, want.features, atol=1e-4)
        assert got.layout.viewed == want.layout.viewed
    assert np.abs(together[0][0].features - together[1][0].features).max() > 0.1


async def test_a_square_image_gives_the_same_tokens_with_both(start: Any, make_engine: Any, make_image: Any) -> None:
    file = make_image(0, size=(70, 70))
    async with start(make_engine()) as service:
        crop, pad = [await service.stub.Encode(message(file, fit), timeout=TIMEOUT_S) for fit in (CROP, PAD)]
    assert tokens(crop) == tokens(pad)
    assert viewed(crop) == viewed(pad) == [(0, 0, 1, 1)]


async def test_each_image_has_its_viewed_area(start: Any, make_engine: Any, make_image: Any, wide: bytes) -> None:
    tall = make_image(1, size=WIDE[::-1])
    request = encoder_pb2.EncodeRequest(images=[wide, tall], text_ids=TEXT)
    async with start(make_engine()) as service:
        reply = await service.stub.Encode(request, timeout=TIMEOUT_S)
    assert viewed(reply) == [MIDDLE, (0, 0.375, 1, 0.625)]


@pytest.mark.parametrize(("fit", "words"), [(PAD, "image_fit pad is not accepted"), (7, "image_fit 7 is not accepted")])
async def test_a_fit_that_the_family_does_not_have_is_refused(
    fit: int, words: str, start: Any, make_engine: Any, tiles_model: EncoderModel, wide: bytes
) -> None:
    async with start(make_engine(towers=tiles_model)) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Encode(message(wide, fit), timeout=TIMEOUT_S)
        accepted = await service.stub.Encode(message(wide, CROP), timeout=TIMEOUT_S)
    error = from_rpc_error(caught.value, "encoder")
    assert isinstance(error, InvalidRequest)
    assert error.param == "image_fit"
    assert words in error.message
    assert error.message.endswith("family llava_next, with this checkpoint's image processor, takes crop")
    assert viewed(accepted) == [(0, 0, 1, 1)]


def test_the_service_says_what_it_takes(model: EncoderModel, tiles_model: EncoderModel) -> None:
    crop, pad = (EncoderSettings(model="m", image_fit=fit) for fit in ("crop", "pad"))
    assert (list(describe(model, pad).image_fits), describe(model, pad).default_image_fit) == ([CROP, PAD], PAD)
    assert (list(describe(tiles_model, crop).image_fits), describe(tiles_model, crop).default_image_fit) == (
        [CROP],
        CROP,
    )


def test_the_default_changes_the_settings_fingerprint(model: EncoderModel) -> None:
    crop, pad = (describe(model, EncoderSettings(model="m", image_fit=fit)) for fit in ("crop", "pad"))
    assert crop.settings_fingerprint != pad.settings_fingerprint
    assert crop.settings_fingerprint == model.settings_fingerprint
    assert (crop.fingerprint, crop.text_tower_fingerprint) == (pad.fingerprint, pad.text_tower_fingerprint)


@pytest.mark.usefixtures("own_logging")
def test_a_default_that_the_family_does_not_have_stops_the_service_at_start(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text_tower = llava_next.write(tmp_path / "model"), clip.write(tmp_path / "clip")
    flags = ["--model", str(folder), "--text-tower", str(text_tower), "--listen", "127.0.0.1:0", "--device", "cpu"]
    assert main([*flags, "--image-fit", "pad"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "--image-fit pad is not accepted: family llava_next, with this checkpoint's image processor, takes crop" in last
    )
    assert "exception" not in last


def test_old_digests_stand_for_the_default(wide: bytes) -> None:
    """Seeds of pruners come from the digest: answers without the field are those of before."""
    assert media_digest(wide) == media_digest(wide, MediaOptions("crop")) == hashlib.sha256(wide).digest()
    assert media_digest(wide, MediaOptions("pad")) != media_digest(wide)
