"""The qwen2_5_vl family: patches, features and outputs are those of the unsplit model, without its language model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from benchmarks.checkpoints.tiny import qwen2_5_vl
from benchmarks.checkpoints.tiny.clips import clip_file
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.media.video_limits import VideoLimits
from encoder_service.media.videos import FrameList, VideoFile, decode
from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.models.media_features import VideoFrames
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import TextSpace
from encoder_service.pruners.tower_outputs import (
    SALIENCY_FIRST,
    SALIENCY_LAST,
    SALIENCY_SECOND_LAST,
    OutputKind,
    TowerOutput,
)
from encoder_service.server.requests import read_request
from encoder_service.server.responses import describe
from encoder_service.settings import EncoderSettings
from fovea.budget import Budget
from fovea.errors import InvalidRequest
from fovea.modeling.errors import CheckpointError
from fovea.v1 import encoder_pb2
from tests.single_features import single_text, tower_features
from tests.unit.encoder_service.coarse_images import frames, image, png
from tests.unit.encoder_service.plain_outputs import PlainOutputs

# Width and height. One window holds 4 x 4 visual tokens of 28 x 28 pixels.
SHAPES = [
    (56, 56),
    (112, 112),
    (140, 140),
    (224, 84),
    (84, 224),
    (640, 480),
    (480, 641),
    (301, 299),
    (1, 1),
    (3, 80),
    (80, 3),
    (1000, 13),
    (97, 2000),
]
OFFERED = {"none", "desap", "fovea", "holov", "hired", "cls", "uniform", "random", "cdpruner"}


def load_encoder(checkpoint: Path, **options: Any) -> EncoderModel:
    return load(str(checkpoint), LoadOptions(device="cpu", **options))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2_5_vl.write(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> EncoderModel:
    return load_encoder(checkpoint)


@pytest.fixture(scope="module")
def unsplit(checkpoint: Path) -> Any:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture
def copy_of(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the checkpoint with its config or tensors changed."""

    def copy(*, config: Callable[[dict[str, Any]], None] | None = None, tensors: Any = None) -> Path:
        target = tmp_path / "copy"
        shutil.copytree(checkpoint, target)
        if config is not None:
            content = json.loads((target / "config.json").read_text())
            config(content)
            (target / "config.json").write_text(json.dumps(content))
        if tensors is not None:
            save_file(tensors(load_file(target / "model.safetensors")), target / "model.safetensors")
        return target

    return copy


def test_patches_of_images_are_those_of_the_checkpoints_processor(checkpoint: Path, encoder: EncoderModel) -> None:
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
    for size in SHAPES:
        want = processor(images=image(size), return_tensors="pt")
        got = encoder.media.image(image(size))
        assert torch.equal(encoder.pixel_values([got]), want["pixel_values"]), size
        assert want["image_grid_thw"].tolist() == [[1, 2 * got.layout.rows, 2 * got.layout.columns]]


@pytest.mark.skipif(not is_torchvision_available(), reason="the video processor of transformers needs torchvision")
@pytest.mark.parametrize(("count", "size"), [(1, (64, 48)), (4, (56, 112)), (5, (300, 200)), (8, (97, 31))])
def test_patches_of_videos_are_those_of_the_video_processor(
    checkpoint: Path, encoder: EncoderModel, count: int, size: tuple[int, int]
) -> None:
    from transformers import Qwen2VLVideoProcessor

    processor = Qwen2VLVideoProcessor.from_pretrained(checkpoint, cap_pixels_per_frame=False)
    want = processor(videos=[np.stack([np.array(frame) for frame in frames(count, size)])], return_tensors="pt")
    got = encoder.media.video(VideoFrames(frames(count, size)))
    assert torch.equal(encoder.pixel_values([got]), want["pixel_values_videos"])
    layout = got.layout
    assert want["video_grid_thw"].tolist() == [[layout.num_inputs, 2 * layout.rows, 2 * layout.columns]]


def test_patches_of_a_video_lie_group_by_group_two_frames_deep(encoder: EncoderModel) -> None:
    """At a size that needs no resizing, each number is looked up in its frame; the last of three frames is doubled."""
    clip = frames(3, (84, 56))
    got = encoder.media.video(VideoFrames(clip, seconds_per_frame=0.5))
    assert (got.layout.num_inputs, got.layout.rows, got.layout.columns) == (2, 2, 3)
    assert got.layout.is_video
    assert got.layout.seconds_per_frame == 1.0
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixel_values = encoder.pixel_values([got]).unflatten(0, (2, -1))
    values = [(np.array(frame) / 255 - mean) / std for frame in (*clip, clip[2])]
    for step in range(2):
        index = 0
        for row, column in np.ndindex(2, 3):
            for down, right in np.ndindex(2, 2):
                top, left = 28 * row + 14 * down, 28 * column + 14 * right
                pair = np.stack([v[top : top + 14, left : left + 14] for v in values[2 * step : 2 * step + 2]])
                want = torch.from_numpy(pair.transpose(3, 0, 1, 2).flatten()).float()
                torch.testing.assert_close(pixel_values[step, index], want, atol=1e-5, rtol=1e-5)
                index += 1
        assert index == pixel_values.shape[1]


def test_a_video_that_says_nothing_of_time_is_taken_at_24_frames_a_second(encoder: EncoderModel) -> None:
    layout = encoder.media.video(VideoFrames(frames(2, (56, 56)))).layout
    assert layout.seconds_per_frame == pytest.approx(2 / 24)


def test_frames_of_several_sizes_are_refused(encoder: EncoderModel) -> None:
    with pytest.raises(InvalidRequest, match="same width and height"):
        encoder.media.video(VideoFrames((image((56, 56)), image((56, 57)))))


def test_features_are_what_the_unsplit_model_puts_among_its_words(
    checkpoint: Path, encoder: EncoderModel, unsplit: Any
) -> None:
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
    together = encoder.encode([encoder.media.image(image(size)) for size in SHAPES], frozenset())
    for size, got in zip(SHAPES, together, strict=True):
        inputs = processor(images=image(size), return_tensors="pt")
        with torch.inference_mode():
            want = unsplit.get_image_features(**inputs).pooler_output[0]
        torch.testing.assert_close(tower_features(got)[0].hidden, want, atol=1e-4, rtol=1e-5)
        assert tower_features(got)[0].grid == (got.layout.rows, got.layout.columns)
        assert tower_features(got)[0].outputs == {}


@pytest.mark.parametrize(("count", "size"), [(4, (56, 56)), (7, (200, 150))])
def test_features_of_a_video_are_those_of_the_unsplit_model(
    encoder: EncoderModel, unsplit: Any, count: int, size: tuple[int, int]
) -> None:
    video = encoder.media.video(VideoFrames(frames(count, size)))
    layout = video.layout
    grid = torch.tensor([[layout.num_inputs, 2 * layout.rows, 2 * layout.columns]])
    with torch.inference_mode():
        want = unsplit.get_video_features(encoder.pixel_values([video]), grid).pooler_output[0]
    [got] = encoder.encode([video], frozenset())
    torch.testing.assert_close(
        torch.cat([features.hidden for features in tower_features(got)]), want, atol=1e-4, rtol=1e-5
    )
    assert np.array_equal(np.concatenate(got.patch_positions()), np.arange(layout.num_patches))


class WindowedOutputs(PlainOutputs):
    """The states are in raster order; the first layer attends to windows of 4 x 4 visual tokens."""

    def __init__(self, unsplit: Any, patches: torch.Tensor, rows: int, columns: int) -> None:
        super().__init__(unsplit, patches, rows, columns)
        windows = [
            row * columns + column
            for top in range(0, rows, 4)
            for left in range(0, columns, 4)
            for row in range(top, min(top + 4, rows))
            for column in range(left, min(left + 4, columns))
        ]
        back = torch.tensor(windows).argsort()
        self.states = [state.unflatten(0, (-1, 4))[back].flatten(0, 1) for state in self.states]
        self.window_of = torch.tensor(
            [(i // columns // 4) * 1000 + i % columns // 4 for i in range(rows * columns)]
        ).repeat_interleave(4)


@pytest.mark.parametrize("size", [(56, 84), (252, 168)])  # inside one window; 3 x 2 windows, cut at the edges
def test_outputs_match_loops_over_whole_attention_maps(
    encoder: EncoderModel, unsplit: Any, size: tuple[int, int]
) -> None:
    inputs = [encoder.media.image(image((140, 28))), encoder.media.image(image(size))]
    layout = inputs[1].layout
    got = tower_features(encoder.encode(inputs, encoder.outputs)[1])[0].outputs
    assert got.keys() == encoder.outputs
    with torch.inference_mode():
        plain = WindowedOutputs(unsplit, encoder.pixel_values(inputs[1:]), layout.rows, layout.columns)
        wanted = plain.outputs_of_last() | {
            SALIENCY_SECOND_LAST: plain.saliency(-1),
            SALIENCY_FIRST: plain.saliency(0, plain.window_of),
        }
    for output in encoder.outputs:
        torch.testing.assert_close(
            got[output], wanted[output], atol=1e-4, rtol=1e-4, msg=lambda m, v=output: f"{v}: {m}"
        )


def test_saliency_of_a_large_image_is_computed_in_steps(encoder: EncoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [encoder.media.image(image((252, 168)))]
    outputs = frozenset({SALIENCY_LAST})
    whole = tower_features(encoder.encode(inputs, outputs)[0])[0].outputs[SALIENCY_LAST]
    monkeypatch.setattr("encoder_service.models.qwen_vision._MAX_SCORES", 5000)
    steps = tower_features(encoder.encode(inputs, outputs)[0])[0].outputs[SALIENCY_LAST]
    torch.testing.assert_close(steps, whole, atol=1e-7, rtol=1e-5)


def test_a_question_is_read_as_input_embeddings(encoder: EncoderModel, unsplit: Any) -> None:
    text = single_text(encoder.encode_texts([[20, 30, 30, 40]]))
    rows = unsplit.get_input_embeddings().weight[[20, 30, 30, 40]]
    assert torch.equal(text.tokens, rows)
    torch.testing.assert_close(text.eos, rows.mean(0, keepdim=True))
    assert text.is_word.tolist() == [True] * 4
    assert text.space is TextSpace.INPUT_EMBEDDINGS


@pytest.fixture
def run(encoder: EncoderModel, make_engine: Callable[..., EncoderEngine]) -> Callable[..., EncodedMedia]:
    """Visual tokens of one image, or of one video of four frames."""

    def encode(
        name: str,
        params: dict[str, object],
        keep: int,
        *,
        towers: EncoderModel = encoder,
        text_ids: tuple[int, ...] = (20, 30, 40),
        video: bool = False,
        joint: bool = False,
    ) -> EncodedMedia:
        engine = make_engine(towers=towers)
        clip = FrameList(tuple(png((112, 84), seed) for seed in range(4)), 0.5)
        request = EncodeRequest(
            () if video else (png((252, 168)),),
            text_ids,
            PRUNERS[name].bind(params),
            Budget.count(keep),
            videos=(clip,) if video else (),
            joins_frames=joint,
        )
        [outcome] = engine.run([engine.prepare(request)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[0]

    return encode


@pytest.mark.parametrize("name", sorted(OFFERED - {"none"}))
def test_pruners_keep_whole_groups_with_their_positions(
    run: Callable[..., EncodedMedia], encoder: EncoderModel, name: str
) -> None:
    got = run(name, {}, 6)
    assert got.num_tokens_total == 54
    assert got.features.shape == (6, encoder.hidden_size)
    assert len(set(got.positions.tolist())) == 6
    assert got.positions.max() < 54


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_a_full_budget_changes_nothing(run: Callable[..., EncodedMedia], encoder: EncoderModel, name: str) -> None:
    got = run(name, {}, 54)
    [whole] = encoder.encode([encoder.media.image(image((252, 168)))], frozenset())
    order = np.argsort(got.positions)
    np.testing.assert_array_equal(got.positions[order], np.arange(54))
    np.testing.assert_allclose(got.features[order], tower_features(whole)[0].hidden.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"task_share": 1.0},
        {"attn_variant": "kkv", "merge_metric": "decoupled"},
        {"attn_variant": "vvv", "merge_metric": "key"},
        {"similarity": "vanilla", "fcma": False},
        {"fcma_cosines": "signed", "cls_layer": -2},
    ],
)
def test_desaps_switches_work(
    run: Callable[..., EncodedMedia], encoder: EncoderModel, params: dict[str, object]
) -> None:
    got = run("desap", params, 10)
    assert got.features.shape == (10, encoder.hidden_size)
    assert got.task_map is not None


@pytest.mark.parametrize("name", sorted(OFFERED - {"none"}))
@pytest.mark.parametrize("joint", [False, True])
def test_a_video_is_pruned_step_by_step_or_as_a_whole(run: Callable[..., EncodedMedia], name: str, joint: bool) -> None:
    got = run(name, {}, 6, video=True, joint=joint)
    assert got.num_tokens_total == 24
    assert got.layout.num_inputs == 2
    assert len(set(got.positions.tolist())) == 6
    if not joint:
        assert sorted(got.positions // 12) == [0, 0, 0, 1, 1, 1]


def test_a_file_is_sampled_twice_a_second_in_whole_steps(encoder: EncoderModel) -> None:
    assert encoder.media.num_frames(300, 10.0) == 20
    assert encoder.media.num_frames(300, 10.9) == 20
    assert encoder.media.num_frames(100, 0.5) == 4
    assert encoder.media.num_frames(3, 10.0) == 2
    assert encoder.media.num_frames(1, 10.0) == 1
    assert encoder.media.num_frames(100_000, 3600.0) == 768
    assert encoder.media.num_frames(240, 0) == 20  # as if there were 24 a second


@pytest.mark.parametrize("asked", [16, 17, 64])
def test_a_frame_of_a_file_is_taken_once_where_more_are_asked_for(encoder: EncoderModel, asked: int) -> None:
    video = decode(VideoFile(clip_file(16, frames_per_second=8), asked), encoder.media, VideoLimits())
    assert len(video.frames) == 16
    assert video.seconds_per_frame == pytest.approx(1 / 8)
    assert encoder.media.video(video).layout.num_inputs == 8


@pytest.mark.parametrize("token", [5, 37])
def test_the_token_that_a_word_means_is_kept(
    run: Callable[..., EncodedMedia], copy_of: Callable[..., Path], encoder: EncoderModel, token: int
) -> None:
    """A word whose embedding equals the features of a visual token draws the budget to it, and nowhere else."""
    qqv = TowerOutput(OutputKind.JOINT, qkv="qqv")
    own = tower_features(encoder.encode([encoder.media.image(image((252, 168)))], frozenset({qqv}))[0])[0].outputs[qqv]

    def with_word(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.embed_tokens.weight"][77] = own[1 + token]
        return tensors

    changed = load_encoder(copy_of(tensors=with_word))
    assert run("desap", {"task_share": 1.0}, 1, towers=changed, text_ids=(77,)).positions.tolist() == [token]


@pytest.mark.parametrize("token", [5, 37])
def test_cdpruner_keeps_the_token_that_is_most_like_the_words(
    run: Callable[..., EncodedMedia], copy_of: Callable[..., Path], encoder: EncoderModel, token: int
) -> None:
    """Among input embeddings relevance is not negated, unlike in CLIP's joint space."""
    own = tower_features(encoder.encode([encoder.media.image(image((252, 168)))], frozenset())[0])[0].hidden

    def with_word(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.embed_tokens.weight"][77] = own[token]
        return tensors

    changed = load_encoder(copy_of(tensors=with_word))
    assert run("cdpruner", {}, 1, towers=changed, text_ids=(77,)).positions.tolist() == [token]


def test_pruners_that_need_a_cls_are_not_offered(encoder: EncoderModel) -> None:
    settings = EncoderSettings(model="x")
    assert {info.name for info in describe(encoder, settings).pruners} == OFFERED
    for name in ("visionzip", "prumerge", "prumerge_plus", "flowcut"):
        with pytest.raises(InvalidRequest, match="accepted: none, desap, holov, hired, cls, uniform, random"):
            read_request(encoder_pb2.EncodeRequest(images=[b"x"], pruner=name), encoder, settings)


def test_a_filter_that_reads_a_text_towers_attention_is_refused(encoder: EncoderModel) -> None:
    request = encoder_pb2.EncodeRequest(images=[b"x"], pruner="desap")
    request.pruner_params.update({"text_filter": "eot_attention"})
    with pytest.raises(InvalidRequest, match="with these parameters"):
        read_request(request, encoder, EncoderSettings(model="x"))


def test_model_info_names_the_tokenizer_of_the_text_ids(encoder: EncoderModel) -> None:
    info = describe(encoder, EncoderSettings(model="x"))
    assert info.text_tokenizer == encoder_pb2.TEXT_TOKENIZER_LANGUAGE_MODEL
    assert info.max_text_ids == 8192
    assert not info.HasField("grid")
    assert info.hidden_size == 128


def features_of(encoder: EncoderModel) -> torch.Tensor:
    return tower_features(encoder.encode([encoder.media.image(image((140, 112)))], frozenset())[0])[0].hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_key_layout_and_stored_dtype_gives_the_same_features(
    copy_of: Callable[..., Path], encoder: EncoderModel, unsplit: Any, dtype: torch.dtype
) -> None:
    def as_in_memory(_: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: tensor.to(dtype).clone() for key, tensor in unsplit.state_dict().items()}

    copy = copy_of(tensors=as_in_memory)
    assert "model.visual.merger.ln_q.weight" in load_file(copy / "model.safetensors")
    other = load_encoder(copy)
    exact = dtype == torch.float32
    torch.testing.assert_close(features_of(other), features_of(encoder), atol=0 if exact else 0.5, rtol=0)
    text = single_text(other.encode_texts([[20, 30]]))
    assert text.tokens.dtype == torch.float32
    torch.testing.assert_close(
        text.tokens, single_text(encoder.encode_texts([[20, 30]])).tokens, atol=0 if exact else 5e-3, rtol=0
    )


def test_the_language_model_is_not_read(copy_of: Callable[..., Path], encoder: EncoderModel) -> None:
    """All tensors but the embedding table are in a shard that is no safetensors file, and loading succeeds."""
    copy = copy_of()
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    own = {key: tensor for key, tensor in tensors.items() if key.startswith("visual.") or "embed_tokens" in key}
    assert len(own) < len(tensors)
    save_file(own, copy / "model-00001-of-00002.safetensors")
    (copy / "model-00002-of-00002.safetensors").write_bytes(b"not a safetensors file")
    weight_map = {key: f"model-0000{1 if key in own else 2}-of-00002.safetensors" for key in tensors}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert torch.equal(features_of(load_encoder(copy)), features_of(encoder))


def test_half_precision_computes_all_outputs(checkpoint: Path, encoder: EncoderModel) -> None:
    half = load_encoder(checkpoint, dtype="bfloat16")
    inputs = [half.media.image(image((140, 112)))]
    got = tower_features(half.encode(inputs, half.outputs)[0])[0]
    assert got.hidden.dtype == torch.bfloat16
    want = tower_features(encoder.encode(inputs, frozenset({SALIENCY_LAST}))[0])[0]
    spread = want.hidden.std()
    assert (got.hidden.float() - want.hidden).abs().mean() < 0.1 * spread
    saliency, exact = got.outputs[SALIENCY_LAST], want.outputs[SALIENCY_LAST]
    torch.testing.assert_close(saliency, exact, atol=0.2 * float(exact.std()), rtol=0.1)


def test_eager_attention_gives_the_same_features(checkpoint: Path, encoder: EncoderModel) -> None:
    eager = load_encoder(checkpoint, attn_implementation="eager")
    torch.testing.assert_close(features_of(eager), features_of(encoder), atol=1e-4, rtol=1e-5)


def test_a_text_tower_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="leave --text-tower out"):
        load_encoder(checkpoint, text_tower="somewhere")


def test_a_last_layer_that_sees_windows_only_is_refused(copy_of: Callable[..., Path]) -> None:
    copy = copy_of(config=lambda config: config["vision_config"].update(fullatt_block_indexes=[1]))
    with pytest.raises(CheckpointError, match="windows only"):
        load_encoder(copy)


def test_a_missing_embedding_table_is_named(copy_of: Callable[..., Path]) -> None:
    copy = copy_of(tensors=lambda tensors: {key: t for key, t in tensors.items() if "embed_tokens" not in key})
    with pytest.raises(CheckpointError, match="no embed_tokens"):
        load_encoder(copy)


def test_a_processor_of_other_patches_is_refused(copy_of: Callable[..., Path]) -> None:
    copy = copy_of()
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_size": 16}))
    with pytest.raises(CheckpointError, match="its vision tower takes"):
        load_encoder(copy)
