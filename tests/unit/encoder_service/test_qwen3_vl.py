"""The qwen3_vl family: features, DeepStack planes and outputs are those of the unsplit model, and pruned together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.utils import is_torchvision_available
from transformers.video_utils import VideoMetadata

from benchmarks.checkpoints.tiny import qwen3_vl
from encoder_service.__main__ import main
from encoder_service.basis_learning import learn_basis
from encoder_service.engine.batching import BatchTiming
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.engine.wire_values import device_format
from encoder_service.media.videos import FrameList
from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.models.media_features import VideoFrames
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.tower_outputs import SALIENCY_FIRST, SALIENCY_SECOND_LAST
from encoder_service.server.responses import WireChoice, describe, write_response
from encoder_service.server.wire_budget import max_tokens_for_bytes
from encoder_service.settings import EncoderSettings
from fovea.budget import Budget
from fovea.errors import InvalidRequest
from fovea.modeling.errors import CheckpointError
from fovea.v1 import encoder_pb2, tensor_pb2
from fovea.wire import basis_file, tensors
from fovea.wire.basis import WireBasis
from fovea.wire.formats import WIRE_FORMATS, format_of
from tests.single_features import tower_features
from tests.unit.encoder_service.coarse_images import frames, image, png
from tests.unit.encoder_service.plain_outputs import PlainOutputs

SHAPES = [(64, 64), (128, 96), (256, 96), (640, 480), (301, 299), (1, 1), (3, 80), (1000, 13)]
NUM_PLANES = 3
SIZE = (288, 192)  # of 6 x 9 visual tokens


def video_of(count: int, size: tuple[int, int], rate: float = 2.0) -> VideoFrames:
    return VideoFrames(frames(count, size), 1 / rate)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_vl.write(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> EncoderModel:
    return load(str(checkpoint), LoadOptions(device="cpu"))


@pytest.fixture(scope="module")
def unsplit(checkpoint: Path) -> Any:
    return Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()


def test_features_and_planes_are_those_of_the_unsplit_tower(
    checkpoint: Path, encoder: EncoderModel, unsplit: Any
) -> None:
    """Images of several grids and a video, computed together, are as each by itself."""
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
    inputs = [encoder.media.image(image(size)) for size in SHAPES]
    for size, one in zip(SHAPES, inputs, strict=True):
        assert torch.equal(
            encoder.pixel_values([one]), processor(images=image(size), return_tensors="pt")["pixel_values"]
        )
    inputs.append(encoder.media.video(video_of(5, (90, 120))))
    for one, got in zip(inputs, encoder.encode(inputs, frozenset()), strict=True):
        layout = one.layout
        grid = torch.tensor([[layout.num_inputs, 2 * layout.rows, 2 * layout.columns]])
        with torch.inference_mode():
            want = unsplit.model.visual(encoder.pixel_values([one]), grid_thw=grid)
        by_frame = tower_features(got)
        features = torch.cat([frame.hidden for frame in by_frame])
        planes = torch.cat([frame.planes for frame in by_frame if frame.planes is not None], dim=1)
        torch.testing.assert_close(features, want.pooler_output, atol=1e-4, rtol=1e-5)
        assert planes.shape == (NUM_PLANES, *features.shape)
        for plane, expected in zip(planes, want.deepstack_features, strict=True):
            torch.testing.assert_close(plane, expected, atol=1e-4, rtol=1e-5)


def test_outputs_match_whole_attention_maps(encoder: EncoderModel, unsplit: Any) -> None:
    inputs = [encoder.media.image(image((160, 32))), encoder.media.image(image(SIZE))]
    layout = inputs[1].layout
    got = tower_features(encoder.encode(inputs, encoder.outputs)[1])[0].outputs
    assert got.keys() == encoder.outputs
    with torch.inference_mode():
        plain = PlainOutputs(unsplit, encoder.pixel_values(inputs[1:]), layout.rows, layout.columns)
        wanted = plain.outputs_of_last() | {
            SALIENCY_SECOND_LAST: plain.saliency(-2),
            SALIENCY_FIRST: plain.saliency(0),
        }
    for output in encoder.outputs:
        torch.testing.assert_close(
            got[output], wanted[output], atol=1e-4, rtol=1e-4, msg=lambda m, v=output: f"{v}: {m}"
        )


def engine_of(encoder: EncoderModel, cache: FeatureCache | None = None) -> EncoderEngine:
    return EncoderEngine(
        encoder, cache or FeatureCache(0), max_batch_size=8, max_image_bytes=10**7, max_image_pixels=10**7
    )


def outcome_of(engine: EncoderEngine, request: EncodeRequest) -> tuple[EncodedMedia, ...]:
    [outcome] = engine.run([engine.prepare(request)])
    assert not isinstance(outcome, Exception), outcome
    return outcome


def encoded(
    encoder: EncoderModel, name: str, keep: int, *, videos: Sequence[FrameList] = (), cache: FeatureCache | None = None
) -> EncodedMedia:
    """Visual tokens of one image, or of one video whose frames are pruned together."""
    request = EncodeRequest(
        () if videos else (png(SIZE),),
        (20, 30, 40),
        PRUNERS[name].bind({}),
        Budget.count(keep),
        videos=tuple(videos),
        joins_frames=bool(videos),
    )
    [media] = outcome_of(engine_of(encoder, cache), request)
    return media


def values(array: Any) -> Any:
    assert isinstance(array, np.ndarray)
    return array


@pytest.mark.parametrize("name", ["desap", "random", "uniform", "cls"])
def test_planes_of_a_merged_token_are_the_means_of_the_same_patches(encoder: EncoderModel, name: str) -> None:
    [whole] = tower_features(encoder.encode([encoder.media.image(image(SIZE))], frozenset())[0])
    assert whole.planes is not None
    got = encoded(encoder, name, 6)
    assert len(got.planes) == NUM_PLANES
    for token in range(6):
        cluster = np.flatnonzero(got.cluster_of_patch == token)
        for merged, patches in zip(got.vectors, (whole.hidden, *whole.planes), strict=True):
            np.testing.assert_allclose(values(merged)[token], patches[cluster].mean(dim=0).numpy(), atol=1e-5)


def test_planes_of_a_weighted_mean_have_its_weights_and_each_the_norm_of_its_kept_patch(encoder: EncoderModel) -> None:
    [whole] = tower_features(encoder.encode([encoder.media.image(image(SIZE))], frozenset())[0])
    assert whole.planes is not None
    got = encoded(encoder, "fovea", 6)
    for merged, patches in zip(got.vectors, (whole.hidden, *whole.planes), strict=True):
        kept = patches[got.positions].norm(dim=-1).numpy()
        np.testing.assert_allclose(np.linalg.norm(values(merged), axis=-1), kept, rtol=1e-4)
    token = int(np.bincount(got.cluster_of_patch).argmax())
    cluster = np.flatnonzero(got.cluster_of_patch == token)
    directions = [whole.hidden[cluster], *(plane[cluster] for plane in whole.planes)]
    # Weights up to a factor, from the features; they must explain every plane.
    weights = torch.linalg.lstsq(directions[0].T, torch.tensor(values(got.features)[token])).solution
    for merged, patches in zip(got.vectors, directions, strict=True):
        combined = patches.T @ weights
        cosine = torch.nn.functional.cosine_similarity(combined, torch.tensor(values(merged)[token]), dim=0)
        assert cosine > 1 - 1e-4


@pytest.mark.parametrize("name", ["holov", "hired", "none", "desap", "fovea", "cdpruner"])
def test_a_full_budget_sends_the_planes_unchanged(encoder: EncoderModel, name: str) -> None:
    [whole] = tower_features(encoder.encode([encoder.media.image(image(SIZE))], frozenset())[0])
    assert whole.planes is not None
    got = encoded(encoder, name, 54)
    for merged, patches in zip(got.vectors, (whole.hidden, *whole.planes), strict=True):
        np.testing.assert_allclose(values(merged), patches[got.positions].numpy(), atol=1e-5)


def test_frames_that_share_a_budget_keep_their_own_planes(encoder: EncoderModel) -> None:
    files = tuple(png((112, 84), seed) for seed in range(4))
    got = encoded(encoder, "holov", 7, videos=[FrameList(files, 0.5)])
    [whole] = encoder.encode([encoder.media.video(VideoFrames(frames(4, (112, 84)), 0.5))], frozenset())
    by_frame = tower_features(whole)
    planes = torch.cat([one.planes for one in by_frame if one.planes is not None], dim=1)
    assert len(got.positions) == 7
    for merged, patches in zip(got.planes, planes, strict=True):
        np.testing.assert_allclose(values(merged), patches[got.positions].numpy(), atol=1e-5)


def test_the_feature_cache_counts_and_returns_planes(encoder: EncoderModel) -> None:
    cache = FeatureCache(10**8)
    first, again = (encoded(encoder, "uniform", 6, cache=cache) for _ in range(2))
    assert (first.features_cached, again.features_cached) == (False, True)
    assert cache.nbytes == 54 * encoder.hidden_size * 4 * (1 + NUM_PLANES)
    for one, other in zip(first.vectors, again.vectors, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


def written(
    encoder: EncoderModel, dtype: tensor_pb2.DType, max_bytes: int = 0, basis: WireBasis | None = None
) -> tensor_pb2.VisualTokens:
    wire_format = format_of(dtype)
    request = EncodeRequest(
        (png(SIZE),),
        (20, 30, 40),
        PRUNERS["desap"].bind({}),
        Budget.count(20),
        wire_format=device_format(wire_format.name) if wire_format else "float32",
    )
    outcome = outcome_of(engine_of(encoder), request)
    wire = WireChoice(dtype, max_bytes, basis)
    response = write_response(outcome, BatchTiming(0, 0, 0, 1), "desap", encoder.fingerprint, wire, explain=False)
    return response.visual_tokens[0]


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int8", "int4", "entropy"])
def test_every_wire_format_carries_planes(encoder: EncoderModel, name: str) -> None:
    dtype = WIRE_FORMATS[name].dtype
    exact, message = written(encoder, tensor_pb2.DTYPE_FLOAT32), written(encoder, dtype)
    assert len(message.planes) == NUM_PLANES
    for plane, expected in zip(message.planes, exact.planes, strict=True):
        assert plane.dtype == dtype
        want = tensors.from_message(expected, max_bytes=10**7)
        # The same tensor by the codec in numpy, whose errors the tests of the wire formats bound.
        assert plane == tensors.to_message(want, dtype)


def test_planes_beside_features_in_a_basis_are_in_entropy(encoder: EncoderModel) -> None:
    """A basis is learned for the features. A budget of bytes holds with one, too."""
    noise = np.random.default_rng(0).standard_normal((6, 54, encoder.hidden_size), dtype=np.float32)
    basis = basis_file.from_bytes(learn_basis(list(noise), None))
    message = written(encoder, tensor_pb2.DTYPE_BASIS, basis=basis)
    assert message.features.dtype == tensor_pb2.DTYPE_BASIS
    assert [plane.dtype for plane in message.planes] == [tensor_pb2.DTYPE_ENTROPY] * NUM_PLANES
    assert written(encoder, tensor_pb2.DTYPE_UNSPECIFIED, 5000, basis).ByteSize() <= 5000


def test_a_budget_of_bytes_counts_planes(encoder: EncoderModel) -> None:
    """The bytes of a message hold for features and planes together, and fewer tokens fit."""
    for max_bytes in (6000, 12_000, 40_000):
        message = written(encoder, tensor_pb2.DTYPE_UNSPECIFIED, max_bytes)
        assert message.ByteSize() <= max_bytes
        assert len(message.planes) == NUM_PLANES
    limits = {"num_media": 1, "channels": 128, "fingerprint": "x" * 32, "grid": None}
    without = max_tokens_for_bytes(10_000, **limits)
    assert max_tokens_for_bytes(10_000, **limits, num_planes=NUM_PLANES) == pytest.approx(without / 4, rel=0.1)
    with pytest.raises(InvalidRequest, match="has no room for one visual token"):
        max_tokens_for_bytes(300, **limits, num_planes=NUM_PLANES)


def test_times_of_frames_are_those_of_the_processor(encoder: EncoderModel) -> None:
    """Two frames make a temporal step; the last one is doubled if their number is odd."""
    assert encoder.media.video(video_of(5, (64, 64), rate=2)).layout.frame_times == (0.25, 1.25, 2.0)
    assert encoder.media.video(video_of(1, (64, 64))).layout.frame_times == (0.0,)


@pytest.mark.parametrize("count", [2, 3, 4, 9, 40])
@pytest.mark.parametrize("size", [(64, 48), (640, 480), (33, 900)])
def test_frames_have_the_size_that_the_processor_gives_them(
    checkpoint: Path, encoder: EncoderModel, count: int, size: tuple[int, int]
) -> None:
    bounds = json.loads((checkpoint / "video_preprocessor_config.json").read_text())["size"]
    height, width = smart_resize(count, size[1], size[0], 2, 32, bounds["shortest_edge"], bounds["longest_edge"])
    layout = encoder.media.video(video_of(count, size)).layout
    assert (layout.rows, layout.columns) == (height // 32, width // 32)


@pytest.mark.skipif(not is_torchvision_available(), reason="the video processor of transformers needs torchvision")
@pytest.mark.parametrize(("count", "size"), [(4, (64, 112)), (5, (300, 200)), (8, (97, 33))])
@pytest.mark.parametrize("caps", [False, True])
def test_patches_of_videos_are_those_of_the_video_processor(
    checkpoint: Path, tmp_path: Path, count: int, size: tuple[int, int], caps: bool
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    path = folder / "video_preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cap_pixels_per_frame": caps, "max_video_tokens": 12}))
    encoder = load(str(folder), LoadOptions(device="cpu"))
    video = video_of(count, size)
    stacked = np.stack([np.array(frame) for frame in video.frames])
    processor = Qwen3VLVideoProcessor.from_pretrained(folder)
    want = processor(videos=[stacked], do_sample_frames=False, return_tensors="pt")
    got = encoder.media.video(video)
    assert torch.equal(encoder.pixel_values([got]), want["pixel_values_videos"])
    assert want["video_grid_thw"].tolist() == [[got.layout.num_inputs, 2 * got.layout.rows, 2 * got.layout.columns]]


@pytest.mark.parametrize(
    ("total", "rate"), [(300, 30.0), (327, 30.0), (50, 100.0), (3, 0.3), (1, 24.0), (90_000, 25.0)]
)
def test_a_file_is_sampled_as_by_the_video_processor(encoder: EncoderModel, total: int, rate: float) -> None:
    processor = SimpleNamespace(fps=2, min_frames=4, max_frames=768)
    want = Qwen3VLVideoProcessor.sample_frames(processor, VideoMetadata(total_num_frames=total, fps=rate)).tolist()
    count = encoder.media.num_frames(total, total / rate)
    assert encoder.media.sample_indices(total, count) == want


@pytest.mark.parametrize(("total", "asked"), [(16, 64), (3, 8), (1, 4)])
def test_frames_of_a_short_file_are_repeated_as_by_the_video_processor(
    encoder: EncoderModel, total: int, asked: int
) -> None:
    metadata = VideoMetadata(total_num_frames=total, fps=8.0)
    want = Qwen3VLVideoProcessor.sample_frames(SimpleNamespace(fps=2), metadata, num_frames=asked).tolist()
    assert encoder.media.sample_indices(total, asked) == want
    assert len(want) == asked


def test_model_info_offers_the_pruners_without_cls(encoder: EncoderModel) -> None:
    info = describe(encoder, EncoderSettings(model="x"))
    assert {"desap", "fovea", "holov", "uniform", "cdpruner"} <= {one.name for one in info.pruners}
    assert not {"visionzip", "prumerge"} & {one.name for one in info.pruners}
    assert info.text_tokenizer == encoder_pb2.TEXT_TOKENIZER_LANGUAGE_MODEL


def test_planes_of_layers_that_do_not_exist_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["deepstack_visual_indexes"] = [1, 2, 7]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not ascending layers of a tower of 5"):
        load(str(folder), LoadOptions(device="cpu"))


def test_half_precision_computes_planes(checkpoint: Path, encoder: EncoderModel) -> None:
    half = load(str(checkpoint), LoadOptions(device="cpu", dtype="bfloat16"))
    inputs = [half.media.image(image((160, 128)))]
    [got], [want] = (tower_features(one.encode(inputs, frozenset())[0]) for one in (half, encoder))
    assert got.planes is not None
    assert want.planes is not None
    assert got.planes.dtype == torch.bfloat16
    assert (got.planes.float() - want.planes).abs().mean() < 0.1 * want.planes.std()


@pytest.mark.usefixtures("own_logging")
def test_a_default_pruner_that_the_family_cannot_run_stops_the_service_at_start(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(checkpoint), "--listen", "127.0.0.1:0", "--device", "cpu"]
    assert main([*flags, "--pruner", "visionzip"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "--pruner visionzip (ENCODER_PRUNER) requires features that family qwen3_vl does not have; accepted: " in last
    )
