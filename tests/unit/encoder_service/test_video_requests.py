"""Requests with videos over a real channel, and the service's model info."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import numpy as np
import pytest
from PIL import Image

from benchmarks.checkpoints.tiny import clip, video_llava
from benchmarks.checkpoints.tiny.clips import clip_file, clip_frames
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.media.videos import VideoFile
from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners import PRUNERS
from fovea.budget import Budget
from fovea.errors import InvalidRequest, ServiceError, UnsupportedMedia, from_rpc_error
from fovea.v1 import encoder_pb2

TEXT = [300, 5, 17, 301]
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def videos_model(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    root = tmp_path_factory.mktemp("video_llava")
    folder = video_llava.write(root / "model")
    return load(str(folder), LoadOptions(text_tower=str(clip.write(root / "clip")), device="cpu"))


@pytest.fixture
async def service(videos_model: EncoderModel, make_engine: Any, start: Any) -> AsyncIterator[Any]:
    async with start(make_engine(towers=videos_model), max_video_frames=16) as running:
        yield running


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def clip_message(**fields: Any) -> encoder_pb2.Video:
    return encoder_pb2.Video(**({"file": clip_file(12)} | fields))


async def refusal(service: Any, **fields: Any) -> ServiceError:
    request = encoder_pb2.EncodeRequest(**({"text_ids": TEXT} | fields))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Encode(request, timeout=TIMEOUT_S)
    return from_rpc_error(caught.value, "encoder")


async def test_videos_come_after_images(service: Any, make_image: Callable[..., bytes]) -> None:
    frames = encoder_pb2.Frames(images=[png(frame) for frame in clip_frames(3)], seconds_per_frame=0.5)
    request = encoder_pb2.EncodeRequest(
        images=[make_image(0)],
        videos=[clip_message(), clip_message(num_frames=5), encoder_pb2.Video(frames=frames)],
        text_ids=TEXT,
        keep_ratio=0.5,
        explain=True,
    )
    reply = await service.stub.Encode(request, timeout=TIMEOUT_S)
    assert [tokens.kind for tokens in reply.visual_tokens] == [1, 2, 2, 2]
    assert [tokens.grid.frames for tokens in reply.visual_tokens] == [1, 8, 5, 3]
    assert [len(tokens.positions) for tokens in reply.visual_tokens] == [8, 64, 40, 24]
    assert list(reply.num_tokens_total) == [16, 8 * 17, 5 * 17, 3 * 17]
    assert [len(one.task_map) for one in reply.explanations] == [16, 128, 80, 48]
    again = await service.stub.Encode(request, timeout=TIMEOUT_S)
    assert list(again.features_cached) == [True] * 4
    assert again.visual_tokens == reply.visual_tokens


async def test_without_pyav_the_advice_is_to_install_it_and_to_restart(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoder_service.server.requests.has_pyav", lambda: False)
    error = await refusal(service, videos=[clip_message()])
    assert isinstance(error, UnsupportedMedia)
    assert "pip install 'fovea[video]' and restart the encoder service" in error.message


async def test_one_budget_for_the_whole_video(service: Any) -> None:
    def counts(reply: Any) -> list[int]:
        return np.bincount(np.array(reply.visual_tokens[0].positions) // 16, minlength=8).tolist()

    request = encoder_pb2.EncodeRequest(videos=[clip_message()], text_ids=TEXT, keep_tokens=24)
    per_frame = counts(await service.stub.Encode(request, timeout=TIMEOUT_S))
    request.video_budget = encoder_pb2.VIDEO_BUDGET_WHOLE
    whole = counts(await service.stub.Encode(request, timeout=TIMEOUT_S))
    assert per_frame == [3] * 8
    assert sum(whole) == 24
    assert whole != per_frame


@pytest.mark.parametrize("pruner", ["desap", "flowcut"])
@pytest.mark.parametrize("max_wire_bytes", [400, 1000, 2500, 4000, 6000, 8000])
async def test_a_budget_of_bytes_holds_for_images_and_videos_together(
    service: Any, make_image: Callable[..., bytes], pruner: str, max_wire_bytes: int
) -> None:
    request = encoder_pb2.EncodeRequest(
        images=[make_image(0)], videos=[clip_message()], text_ids=TEXT, pruner=pruner, max_wire_bytes=max_wire_bytes
    )
    reply = await service.stub.Encode(request, timeout=TIMEOUT_S)
    assert sum(tokens.ByteSize() for tokens in reply.visual_tokens) <= max_wire_bytes
    image, video = (len(tokens.positions) for tokens in reply.visual_tokens)
    assert 1 <= image <= 16
    assert 1 <= video <= 8 * 17
    if max_wire_bytes == 8000:
        assert (image, video) == (16, 8 * 17)


@pytest.mark.parametrize("most", [128, 135, 136])
def test_cls_tokens_count_where_an_unpruned_video_sends_them(
    videos_model: EncoderModel, make_engine: Any, most: int
) -> None:
    request = EncodeRequest(
        (), (), PRUNERS["cls"].bind({}), Budget.ratio(1.0).capped(most), videos=(VideoFile(clip_file(12), 0),)
    )
    engine = make_engine(towers=videos_model)
    (outcome,) = engine.run([engine.prepare(request)])
    assert len(outcome[0].positions) == (136 if most == 136 else 127)


async def test_a_pruner_inside_the_tower_cannot_compare_frames(service: Any) -> None:
    error = await refusal(
        service, videos=[clip_message()], pruner="flowcut", video_budget=encoder_pb2.VIDEO_BUDGET_WHOLE
    )
    assert isinstance(error, InvalidRequest)
    assert error.param == "video_budget"
    accepted = error.message.rsplit(" with ", 1)[1].split(", ")
    assert set(accepted) == set(PRUNERS) - {"flowcut"}


@pytest.mark.parametrize(
    ("fields", "kind", "param", "words"),
    [
        ({}, InvalidRequest, "images", "0 images; 1 to 8, or up to 4 videos,"),
        ({"videos": [encoder_pb2.Video()]}, InvalidRequest, "videos", "neither a file nor frames"),
        ({"videos": [encoder_pb2.Video(file=b"x")] * 5}, InvalidRequest, "videos", "5 videos; .* at most 4"),
        ({"videos": [clip_message(num_frames=17)]}, InvalidRequest, "num_frames", "17 is not accepted; 1 to 16"),
        (
            {"videos": [encoder_pb2.Video(frames=encoder_pb2.Frames(images=[b"x"]), num_frames=2)]},
            InvalidRequest,
            "num_frames",
            "goes with a file",
        ),
        (
            {"videos": [encoder_pb2.Video(frames=encoder_pb2.Frames())]},
            InvalidRequest,
            "videos",
            "0 frames of a video; 1 to 16",
        ),
        (
            {"videos": [encoder_pb2.Video(frames=encoder_pb2.Frames(images=[b"x"], seconds_per_frame=float("nan")))]},
            InvalidRequest,
            "seconds_per_frame",
            "0 to 3600",
        ),
        ({"videos": [clip_message()], "video_budget": 7}, InvalidRequest, "video_budget", "per_frame, whole"),
        ({"videos": [encoder_pb2.Video(file=b"no video")]}, UnsupportedMedia, "video", "MP4, WebM"),
    ],
)
async def test_what_is_not_accepted(
    service: Any, fields: dict[str, Any], kind: type[ServiceError], param: str, words: str
) -> None:
    error = await refusal(service, **fields)
    assert isinstance(error, kind)
    assert error.param == param
    with pytest.raises(ServiceError, match=words):
        raise error


async def test_the_service_says_what_it_takes(service: Any) -> None:
    info = await service.stub.GetModelInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
    assert (info.family, info.max_videos, info.max_frames) == ("video_llava", 4, 16)
    assert {pruner.name for pruner in info.pruners} == set(PRUNERS)


async def test_a_family_without_videos_says_so(make_engine: Any, start: Any) -> None:
    async with start(make_engine()) as running:
        info = await running.stub.GetModelInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
        assert (info.max_videos, info.max_frames) == (0, 0)
        error = await refusal(running, videos=[clip_message()])
        assert isinstance(error, InvalidRequest)
        assert error.message == "1 videos; family llava: none are accepted"
