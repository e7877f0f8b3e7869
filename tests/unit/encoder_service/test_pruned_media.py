"""Images and videos of several wire formats in one batch: pruned together, each converted as its request asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from encoder_service.engine import pruned_media
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.media_pruning import prune
from encoder_service.engine.request_media import RequestMedia
from encoder_service.engine.wire_values import DeviceFormat, convert, converted
from encoder_service.models.media_features import MediaFeatures, PatchLayout, split_batch
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner, PrunerInput, TowerFeatures
from encoder_service.pruners.tower_outputs import ALL_OUTPUTS, CLS_HIDDEN, OutputKind
from fovea.budget import Budget
from fovea.wire import tensors
from tests.dispatched_operations import operations_of
from tests.request_media import request_media

CHANNELS = 130
FORMATS: tuple[DeviceFormat, ...] = ("float32", "float16", "int8", "int4")
IMAGE = PatchLayout(1, 10, 12)
SMALL = PatchLayout(1, 6, 6)
# A base tile and two tiles side by side, the upper half of which is padding.
TILED = PatchLayout(
    3, 4, 4, mosaic=np.concatenate([np.arange(24, 32).reshape(2, 4), np.arange(40, 48).reshape(2, 4)], 1)
)
VIDEO = PatchLayout(2, 5, 5, cls_per_input=1, is_video=True)
LONG_VIDEO = PatchLayout(4, 5, 5, cls_per_input=1, is_video=True)


def features(*layouts: PatchLayout, factor: float = 1.0) -> list[MediaFeatures]:
    """Random features of media with tower inputs of equal grids, with every output of a tower."""
    generator = torch.Generator().manual_seed(7)
    batch, grid = sum(layout.num_inputs for layout in layouts), (layouts[0].rows, layouts[0].columns)
    num_patches = grid[0] * grid[1]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    shapes = {
        OutputKind.JOINT: (1 + num_patches, 16),
        OutputKind.ATTENTION: (num_patches, 16),
        OutputKind.KEYS: (num_patches, 16),
        OutputKind.MEAN_KEYS: (num_patches, 4),
    }
    outputs = {
        output: random(*shapes[output.kind]) if output.kind in shapes else random(num_patches).softmax(dim=-1)
        for output in sorted(ALL_OUTPUTS - {CLS_HIDDEN})
    }
    outputs[CLS_HIDDEN] = factor * random(CHANNELS)
    return split_batch(TowerFeatures(factor * random(num_patches, CHANNELS), grid, outputs), layouts)


def item(
    media: MediaFeatures, wire_format: DeviceFormat, pruner: str = "visionzip", keep: float = 0.5, **params: Any
) -> RequestMedia:
    return request_media(media, PRUNERS[pruner].bind(params), Budget.ratio(keep), wire_format=wire_format)


@torch.inference_mode()
def pruned(*media: RequestMedia) -> list[EncodedMedia]:
    outcomes = prune(media)
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception) or pytest.fail(str(outcome))]


def in_float32(media: RequestMedia) -> RequestMedia:
    return dataclasses.replace(media, request=dataclasses.replace(media.request, wire_format="float32"))


def check(media: Sequence[RequestMedia], *, on_device: Sequence[bool] | None = None) -> None:
    """Compares messages with those of the numpy codec; `on_device`: whether each was converted on the device."""
    exact = pruned(*(in_float32(one) for one in media))
    for i, (one, got, want) in enumerate(zip(media, pruned(*media), exact, strict=True)):
        np.testing.assert_array_equal(got.positions, want.positions)
        np.testing.assert_array_equal(got.cluster_of_patch, want.cluster_of_patch)
        dtype = tensors.parse_dtype(one.request.wire_format)
        values = converted(got.values)
        assert (values is not None) == (one.request.wire_format != "float32" if on_device is None else on_device[i])
        message = tensors.to_message(got.features, dtype) if values is None else tensors.converted_message(values)
        assert message == tensors.to_message(want.features, dtype)


@pytest.mark.parametrize("pruner", ["visionzip", "prumerge", "uniform", "cls", "none"])
def test_images_of_all_formats_share_one_call_of_their_pruner(pruner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = BoundPruner.prune

    def counted(bound: BoundPruner, inputs: PrunerInput) -> Any:
        calls.append(inputs.vision.num_inputs)
        return run(bound, inputs)

    media = [item(one, FORMATS[i % 4], pruner) for i, one in enumerate(features(*[SMALL] * 9))]
    monkeypatch.setattr(BoundPruner, "prune", counted)
    check(media)
    assert calls == [9, 9]


@pytest.mark.parametrize("pruner", ["visionzip", "none"])
@pytest.mark.parametrize("wire_format", FORMATS[1:])
def test_the_mean_of_many_tokens_is_computed_on_the_device(pruner: str, wire_format: DeviceFormat) -> None:
    check([item(one, wire_format, pruner, keep=0.9) for one in features(*[IMAGE] * 3)], on_device=[True] * 3)


@pytest.mark.parametrize("keep", [0.4, 1.0])
@pytest.mark.parametrize("pruner", ["visionzip", "hired", "holov", "none"])
def test_tiles_are_joined_in_the_order_of_the_mosaic(pruner: str, keep: float) -> None:
    media = features(*[TILED] * 4)
    check([item(one, wire_format, pruner, keep) for one, wire_format in zip(media, FORMATS, strict=True)])


@pytest.mark.parametrize("keep", [0.4, 1.0])
@pytest.mark.parametrize("pruner", ["visionzip", "none"])
def test_frames_are_joined_with_their_cls_tokens(pruner: str, keep: float) -> None:
    media = features(*[VIDEO] * 8)
    check([item(one, wire_format, pruner, keep) for one, wire_format in zip(media, FORMATS * 2, strict=True)])


def test_int4_with_a_mean_over_several_units_is_left_to_the_cpu() -> None:
    short, long = features(VIDEO, LONG_VIDEO)
    check(
        [item(long, "int4", "none"), item(short, "int4", "none"), item(long, "int8", "none")],
        on_device=[False, True, True],
    )


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("layout", [SMALL, IMAGE])
def test_images_that_keep_different_numbers_of_tokens(layout: PatchLayout, adaptive: bool) -> None:
    media = features(*[layout] * 4)
    check(
        [
            item(one, wire_format, "prumerge", 0.3, adaptive=adaptive)
            for one, wire_format in zip(media, FORMATS, strict=True)
        ]
    )


@pytest.mark.parametrize("wire_format", FORMATS[1:])
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e20])
def test_what_cannot_be_converted_is_float32_and_alone(wire_format: DeviceFormat, factor: float) -> None:
    (good,), (bad,) = features(SMALL), features(SMALL, factor=factor)
    first, second, third = pruned(*(item(one, wire_format, "uniform") for one in (good, bad, good)))
    assert converted(first.values) is not None
    assert converted(third.values) is not None
    assert second.features.shape == (18, CHANNELS)
    with pytest.raises(ValueError, match="converted"):
        _ = first.features


@pytest.mark.parametrize("formats", [("int8",), ("int4",), ("float16", "int8", "int4")])
def test_operations_do_not_depend_on_the_number_of_images(formats: tuple[DeviceFormat, ...]) -> None:
    def num_operations(size: int) -> int:
        media = [item(one, formats[i % len(formats)]) for i, one in enumerate(features(*[SMALL] * size))]
        return len(operations_of(lambda: prune(media)))

    assert num_operations(6) == num_operations(30)


@pytest.mark.parametrize("wire_format", ["float32", "float16"])
def test_tokens_of_an_image_are_sent_from_the_memory_of_their_conversion(
    wire_format: DeviceFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[torch.Tensor] = []

    def recorded(*words: Any, **options: Any) -> dict[str, torch.Tensor]:
        found = convert(*words, **options)
        converted.extend(found.values())
        return found

    monkeypatch.setattr(pruned_media, "convert", recorded)
    (encoded,) = pruned(item(*features(IMAGE), wire_format))
    assert isinstance(encoded.values, np.ndarray)
    assert any(np.shares_memory(encoded.values, tensor.numpy()) for tensor in converted)
