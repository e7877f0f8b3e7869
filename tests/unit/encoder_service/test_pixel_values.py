"""Pixel values: bit for bit those of transformers' own processors, in every family, for every kind of media."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from encoder_service.models import pixel_normalizer
from encoder_service.models.base import EncoderModel
from encoder_service.models.media_features import PatchLayout, TowerInputs, VideoFrames
from encoder_service.models.pixel_normalizer import PixelNormalizer
from encoder_service.models.pixel_table import ALL_LEVELS, PixelTables, read_table
from encoder_service.models.preprocessing import ImageProcessor
from fovea.modeling.errors import CheckpointError
from tests.dispatched_operations import Operations

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MOST_OPERATIONS = 6


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def clip_of(count: int, size: tuple[int, int]) -> VideoFrames:
    return VideoFrames(tuple(noise(size, seed) for seed in range(count)))


def in_dtype(model: EncoderModel, like: TowerInputs, dtype: torch.dtype) -> PixelNormalizer:
    """The normalizer of a model in another compute dtype."""
    return PixelNormalizer(model.media.pixel_tables(), model.pixel_values([like]).shape[1:], CPU, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("family", "processor_type"),
    [
        ("llava", CLIPImageProcessorPil),
        ("llava_next", LlavaNextImageProcessorPil),
        ("video_llava", CLIPImageProcessorPil),
        ("qwen2_5_vl", Qwen2VLImageProcessorPil),
        ("qwen3_vl", Qwen2VLImageProcessorPil),
    ],
)
def test_images_are_as_the_familys_own_processor_makes_them(
    family: str,
    processor_type: Any,
    dtype: torch.dtype,
    family_checkpoints: dict[str, Path],
    encoders: dict[str, EncoderModel],
) -> None:
    model, processor = encoders[family], processor_type.from_pretrained(family_checkpoints[family])
    images = [noise(size, seed) for seed, size in enumerate([(56, 56), (61, 47), (200, 90), (90, 333)])]
    made = [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
    want = torch.cat([values.flatten(0, 1) if family == "llava_next" else values for values in made])
    inputs = [model.media.image(image) for image in images]
    got = in_dtype(model, inputs[0], dtype)(inputs)
    assert torch.equal(got, want.to(dtype))
    assert torch.equal(model.pixel_values(inputs), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["video_llava", "qwen2_5_vl", "qwen3_vl"])
def test_frames_are_normalised_as_transformers_does_it_for_videos(
    family: str, dtype: torch.dtype, family_checkpoints: dict[str, Path], encoders: dict[str, EncoderModel]
) -> None:
    """Mean and deviation are scaled to 8-bit values; of images, the 8-bit values are scaled."""
    model = encoders[family]
    video = model.media.video(clip_of(4, (70, 61)))
    path = family_checkpoints[family] / "video_preprocessor_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    found = {"image_mean": clip_mean(), "image_std": clip_std(), "rescale_factor": 1 / 255} | config
    scale = 1.0 / found["rescale_factor"]
    mean, std = (torch.tensor(found[name]).view(3, 1) * scale for name in ("image_mean", "image_std"))
    by_channel = torch.from_numpy(video.pixels).reshape(-1, 3, in_dtype(model, video, dtype)([video])[0].numel() // 3)
    want = (by_channel.to(torch.float32) - mean) / std
    assert torch.equal(in_dtype(model, video, dtype)([video]).view(want.shape), want.to(dtype))
    assert not torch.equal(*(torch.from_numpy(table) for table in tables_of(model)))


def clip_mean() -> list[float]:
    return [0.48145466, 0.4578275, 0.40821073]


def clip_std() -> list[float]:
    return [0.26862954, 0.26130258, 0.27577711]


def tables_of(model: EncoderModel) -> tuple[Any, Any]:
    tables = model.media.pixel_tables()
    return tables.images, tables.videos


numbers = st.floats(-2, 2, allow_nan=False, width=32)


@settings(max_examples=60, deadline=None)
@given(
    mean=st.lists(numbers, min_size=3, max_size=3),
    std=st.lists(st.floats(0.01, 3), min_size=3, max_size=3),
    rescale_factor=st.one_of(st.sampled_from([1 / 255, 1 / 127.5, 1.0]), st.floats(1e-4, 2)),
    do_rescale=st.booleans(),
    do_normalize=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_every_value_of_an_odd_processor(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, mean: Any, std: Any, **steps: Any
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    side = {"height": 16, "width": 16}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size=side, image_mean=mean, image_std=std, **steps
    )
    processor.save_pretrained(folder)
    to_pixels = ImageProcessor(folder, 16)
    image = Image.fromarray(np.random.default_rng(0).permuted(ALL_LEVELS, axis=1).T.reshape(16, 16, 3).copy())
    normalize = PixelNormalizer(PixelTables(to_pixels.pixel_table()), (3, 16, 16), CPU, dtype)
    want = torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"], dtype=torch.float32).to(dtype)
    assert torch.equal(normalize([TowerInputs(to_pixels(image)[None], PatchLayout(1, 1, 1))]), want)


def test_padding_after_normalisation_is_refused(tmp_path: Path) -> None:
    """It would be 0, which no 8-bit value need be."""
    side = {"height": 40, "width": 40}
    padded = CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size=side, do_pad=True, pad_size={"height": 48, "width": 48}
    )
    padded.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="more than rescale and normalise"):
        ImageProcessor(tmp_path, 48).pixel_table()


def test_a_processor_that_looks_at_neighbours_has_no_table() -> None:
    pixels = np.stack([ALL_LEVELS, ALL_LEVELS])
    values = pixels.astype(np.float32)
    assert read_table(pixels, values).tolist() == ALL_LEVELS.tolist()
    values[1, 2, 7] += 1
    with pytest.raises(CheckpointError, match="accepted: resizing, a centre crop"):
        read_table(pixels, values)


@pytest.mark.parametrize("family", ["llava", "llava_next", "video_llava", "qwen2_5_vl", "qwen3_vl"])
def test_a_decoding_process_sends_one_byte_a_value(family: str, encoders: dict[str, EncoderModel]) -> None:
    model = encoders[family]
    inputs = [model.media.image(noise((200, 90)))]
    if model.max_videos:
        inputs.append(model.media.video(clip_of(3, (70, 61))))
    for media in inputs:
        num_values = model.pixel_values([media]).numel()
        layout = len(pickle.dumps(media.layout, protocol=5))
        assert len(pickle.dumps(media, protocol=5)) <= num_values + layout + 512
        again = pickle.loads(pickle.dumps(media, protocol=5))
        assert torch.equal(model.pixel_values([again]), model.pixel_values([media]))


@pytest.mark.parametrize("family", ["llava", "llava_next", "video_llava", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_the_number_of_operations_does_not_grow_with_the_batch(
    family: str, count: int, encoders: dict[str, EncoderModel]
) -> None:
    model = encoders[family]
    images = [model.media.image(noise((80, 64), seed)) for seed in range(count)]
    videos = [model.media.video(clip_of(2, (64, 56))) for _ in range(count)] if model.max_videos else []
    for inputs in filter(None, (images, videos, [*images, *videos])):
        model.pixel_values(inputs)  # the buffer grows
        with Operations() as operations:
            model.pixel_values(inputs)
        kinds = {media.layout.is_video for media in inputs}
        assert len(operations.names) <= MOST_OPERATIONS + len(kinds) - 1, operations.names


@pytest.mark.parametrize("most", [1, 5_000, 100_000])
def test_images_and_videos_in_pieces_of_any_size(
    most: int, encoders: dict[str, EncoderModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = encoders["qwen2_5_vl"]
    media = model.media
    inputs = [
        media.image(noise((56, 84))),
        media.video(clip_of(3, (84, 56))),
        media.image(noise((140, 28), seed=1)),
        media.image(noise((28, 28), seed=2)),
        media.video(clip_of(2, (56, 56))),
    ]
    want = torch.cat([model.pixel_values([one]) for one in inputs])
    assert torch.equal(model.pixel_values(inputs), want)
    monkeypatch.setattr(pixel_normalizer, "_MAX_PIECE_BYTES", most)
    normalize = in_dtype(model, inputs[0], torch.float32)
    assert torch.equal(normalize(inputs), want)
    assert normalize.buffer_bytes <= max(2 * most, 4096)


def test_a_later_batch_leaves_the_pixel_values_of_an_earlier_one_alone(
    encoders: dict[str, EncoderModel],
) -> None:
    model = encoders["llava"]
    image, other = (model.media.image(noise((80, 64), seed)) for seed in range(2))
    normalize = in_dtype(model, image, torch.float32)
    with torch.inference_mode():  # as in a service; a script may call it outside
        first = normalize([image])
    copy = first.clone()
    assert not torch.equal(normalize([other]), copy)
    assert torch.equal(first, copy)
