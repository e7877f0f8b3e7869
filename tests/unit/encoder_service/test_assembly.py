"""Units of pruning become one image or video, in the order in which the language model reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from encoder_service.engine import assembly
from encoder_service.engine.assembly import tensors_to_copy
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.host_copies import HostCopies
from encoder_service.engine.pruning_units import PruningUnit, tile_joint_unit, units_of
from encoder_service.engine.unit_batches import gather
from encoder_service.engine.unit_budgets import plan
from encoder_service.models.media_features import IntArray, MediaFeatures, PatchLayout, split_batch
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, TiledImages, TokenOrigin, TowerFeatures
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, SALIENCY_LAST, OutputKind, TowerOutput
from fovea.budget import Budget
from fovea.wire.tensors import Float32Array
from tests.request_media import request_media

# A base tile of 2 x 2 patches (0..3) and two tiles side by side (4..7 and 8..11); the upper line is padding.
TILED = PatchLayout(3, 2, 2, mosaic=np.array([[6, 7, 10, 11]]))
WITHOUT_PADDING = PatchLayout(3, 2, 2, mosaic=np.array([[4, 5, 8, 9], [6, 7, 10, 11]]))
QQV = TowerOutput(OutputKind.JOINT, qkv="qqv")

Unit = tuple[Sequence[int] | IntArray, PrunedTokens | None]
"""Positions of a unit's patches, and its tokens."""


def unit(positions: Sequence[int] | IntArray, kept: Sequence[int] | None = None, **arrays: IntArray) -> Unit:
    """Tokens of patches, of which the feature is the own position; a patch that is not kept joins the first token."""
    positions = np.asarray(positions)
    origins = np.arange(len(positions)) if kept is None else np.asarray(kept)
    clusters = np.zeros(len(positions), np.int64)
    for token, patch in enumerate(origins):
        clusters[patch] = token
    features = positions[origins].astype(np.float32)[:, None]
    return positions, tokens_of(features, origins, **{"cluster_of_patch": clusters, **arrays})


def tokens_of(*arrays: Float32Array | IntArray, **named: IntArray) -> PrunedTokens:
    """Tokens of a group of one unit."""
    return PrunedTokens(
        *(torch.from_numpy(array)[None] for array in arrays),
        **{name: torch.from_numpy(array)[None] for name, array in named.items()},
    )


def assemble(layout: PatchLayout, units: Sequence[Unit], cls_tokens: Float32Array | None = None) -> EncodedMedia:
    media, arrays = request_media(numbered(layout)), HostCopies()
    filled = [
        PruningUnit(
            media=media,
            number=number,
            batch=media.unpruned.batch,
            rows=(number,),
            positions=np.asarray(positions),
            grid=(1, len(positions)),
            keep=0 if tokens is None else tokens.features.shape[-2],
            tokens=tokens,
        )
        for number, (positions, tokens) in enumerate(units)
    ]
    pruned = [one.tokens for one in filled if one.tokens is not None]
    for tokens in pruned:
        arrays.add(*tensors_to_copy(tokens))
    arrays.copy()
    vectors = [(tokens.features[0].numpy(),) for tokens in pruned]
    return assembly.assemble(filled, vectors, arrays, cls_values=cls_tokens)


def numbered(layout: PatchLayout, **outputs: torch.Tensor) -> MediaFeatures:
    """Features whose patches have their own position as feature."""
    hidden = torch.arange(float(layout.num_patches)).view(layout.num_inputs, -1, 1)
    return split_batch(TowerFeatures(hidden, (layout.rows, layout.columns), outputs), [layout])[0]


def gathered(*units: PruningUnit) -> TowerFeatures:
    outputs = frozenset(units[0].batch.outputs)
    return gather(units, outputs=outputs).vision


def whole(layout: PatchLayout) -> list[Unit]:
    return [unit(positions) for positions in layout.patch_positions() if len(positions)]


def test_an_unpruned_tiled_image_is_read_row_by_row_across_its_tiles() -> None:
    encoded = assemble(WITHOUT_PADDING, whole(WITHOUT_PADDING))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    assert encoded.features[:, 0].tolist() == encoded.positions.tolist()
    assert encoded.newline_after.tolist() == [7, 11]
    assert encoded.cluster_of_patch[encoded.positions].tolist() == list(range(12))


def test_padding_makes_no_token() -> None:
    encoded = assemble(TILED, whole(TILED))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 6, 7, 10, 11]
    assert encoded.num_tokens_total == 8
    assert encoded.newline_after.tolist() == [7]
    assert encoded.cluster_of_patch.tolist() == [0, 1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7]


def test_a_pruned_tiled_image_has_no_newlines_and_its_maps_cover_all_patches() -> None:
    tiles = zip([[0, 1, 2, 3], [6, 7], [10, 11]], [1, 1, 0], strict=True)
    units = [
        unit(positions, [kept], cluster_of_patch=np.zeros(len(positions), np.int64), task_map=np.array(positions))
        for positions, kept in tiles
    ]
    encoded = assemble(TILED, units)
    assert encoded.positions.tolist() == [1, 7, 10]
    assert encoded.newline_after.tolist() == []
    assert encoded.cluster_of_patch.tolist() == [0, 0, 0, 0, -1, -1, 1, 1, -1, -1, 2, 2]
    assert encoded.task_map is not None
    assert encoded.task_map.tolist() == [0, 1, 2, 3, 0, 0, 6, 7, 0, 0, 10, 11]
    assert encoded.saliency_map is None


def test_rows_without_a_patch_end_after_the_base_tile() -> None:
    narrow = PatchLayout(3, 2, 2, mosaic=np.empty((4, 0), np.int64))
    assert assemble(narrow, whole(narrow)).newline_after.tolist() == [3, 3, 3, 3]
    flat = PatchLayout(3, 2, 2, mosaic=np.empty((0, 4), np.int64))
    assert assemble(flat, whole(flat)).newline_after.tolist() == []


def test_tokens_of_tiles_are_read_group_by_group_and_only_the_first_group_across_tiles() -> None:
    units = [
        unit(positions, [3, 0, 2], cluster_of_patch=np.array([1, 0, 2, 0]), reading_group=np.array([1, 0, 0]))
        for positions in WITHOUT_PADDING.patch_positions()
    ]
    encoded = assemble(WITHOUT_PADDING, units)
    assert encoded.positions.tolist() == [3, 0, 2, 4, 8, 6, 10, 7, 11]
    assert encoded.features[:, 0].tolist() == encoded.positions.tolist()
    assert encoded.cluster_of_patch.tolist() == [1, 0, 2, 0, 3, 7, 5, 7, 4, 8, 6, 8]


def test_padding_is_removed_from_all_features_of_a_tile() -> None:
    tile = torch.arange(4.0)[:, None]
    outputs = {
        SALIENCY_LAST: tile[:, 0].expand(3, -1),
        QQV: torch.cat([torch.tensor([[-1.0]]), tile]).expand(3, -1, -1),
        CLS_HIDDEN: torch.tensor([-1.0]).expand(3, -1),
    }
    (media,) = split_batch(TowerFeatures(tile.expand(3, -1, -1), (2, 2), outputs), [TILED])
    base, left, right = units_of(request_media(media))
    assert [one.grid for one in (base, left, right)] == [(2, 2), (1, 2), (1, 2)]
    assert [one.positions.tolist() for one in (base, left, right)] == [[0, 1, 2, 3], [6, 7], [10, 11]]
    features = gathered(left, right)
    assert features.grid == (1, 2)
    assert features.hidden[..., 0].tolist() == [[2, 3], [2, 3]]
    assert features.outputs[SALIENCY_LAST].tolist() == [[2, 3], [2, 3]]
    assert features.outputs[QQV][..., 0].tolist() == [[-1, 2, 3], [-1, 2, 3]]
    assert features.outputs[CLS_HIDDEN].tolist() == [[-1], [-1]]


def test_a_tile_of_a_pruned_tower_keeps_the_kept_patches_that_are_not_padding() -> None:
    hidden, kept = torch.tensor([[1.0], [2.0]]).expand(3, -1, -1), torch.tensor([1, 2]).expand(3, -1)
    (media,) = split_batch(TowerFeatures(hidden, (2, 2), {}, kept), [TILED])
    features = [gathered(one) for one in units_of(request_media(media))]
    assert [one.hidden[..., 0].tolist() for one in features] == [[[1, 2]], [[2]], [[2]]]
    assert [one.kept_in_tower.tolist() for one in features if one.kept_in_tower is not None] == [
        [[1, 2]],
        [[0]],
        [[0]],
    ]


def test_a_tile_of_padding_is_left_out_and_the_others_keep_their_positions() -> None:
    # Three tiles side by side, only the middle one shows.
    media = numbered(PatchLayout(4, 2, 2, mosaic=np.array([[8], [10]])))
    base, middle = units_of(request_media(media))
    assert media.rows == (0, 2)
    assert [base.positions.tolist(), middle.positions.tolist()] == [[0, 1, 2, 3], [8, 10]]
    assert middle.grid == (2, 1)
    assert gathered(middle).hidden.flatten().tolist() == [8, 10]
    assert media.copied().batch.hidden.flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_a_pruner_that_allocates_over_tiles_sees_those_that_are_not_all_padding() -> None:
    layout = PatchLayout(4, 2, 2, mosaic=np.array([[8], [10]]))
    seen = []

    def allocate(images: TiledImages, keep: Sequence[int], params: object) -> list[list[int]]:
        seen.append(images)
        return [[1, total - 1] for total in keep]

    hired = dataclasses.replace(PRUNERS["hired"], allocate_budget=allocate).bind({})
    saliency = {output: torch.ones(4, 4) for output in hired.requirements.tile_outputs}
    media = split_batch(TowerFeatures(torch.ones(4, 4, 1), (2, 2), saliency), [layout])[0]
    (units,) = plan([request_media(media, hired, Budget.count(3))])
    assert not isinstance(units, Exception)
    assert [one.keep for one in units] == [1, 2]
    assert seen[0].sizes == [[4, 2]]
    assert seen[0].tile_at[0].tolist() == [[1], [1]]


def test_joined_tiles_are_in_reading_order() -> None:
    numbers = torch.arange(12.0).view(3, 4)
    outputs = {SALIENCY_LAST: numbers, CLS_HIDDEN: 3 * torch.arange(3.0)[:, None]}
    (media,) = split_batch(TowerFeatures(numbers[..., None], (2, 2), outputs), [WITHOUT_PADDING])
    joint = tile_joint_unit(request_media(media))
    order = [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    one = gathered(joint)
    assert joint.positions.tolist() == order
    assert one.grid == (1, 12)
    assert one.hidden[0, :, 0].tolist() == order
    assert one.outputs[SALIENCY_LAST][0].tolist() == order
    assert one.outputs[CLS_HIDDEN].tolist() == [[3]]  # the mean
    assert assemble(WITHOUT_PADDING, [unit(joint.positions, [9, 2])]).positions.tolist() == [7, 2]


def test_a_frame_that_keeps_nothing_leaves_no_token() -> None:
    kept = unit([2, 3], [1], cluster_of_patch=np.array([-1, 0]))
    encoded = assemble(PatchLayout(2, 1, 2), [([0, 1], None), kept])
    assert encoded.positions.tolist() == [3]
    assert encoded.cluster_of_patch.tolist() == [-1, -1, -1, 0]


def test_unpruned_frames_begin_with_their_cls_tokens() -> None:
    layout = PatchLayout(2, 1, 2, cls_per_input=1, is_video=True)
    encoded = assemble(layout, whole(layout), cls_tokens=np.array([[40.0], [50.0]], np.float32))
    assert encoded.features[:, 0].tolist() == [40, 0, 1, 50, 2, 3]
    assert encoded.positions.tolist() == [4, 0, 1, 5, 2, 3]
    assert encoded.cluster_of_patch.tolist() == [1, 2, 4, 5]
    assert encoded.num_tokens_total == 6


def test_pruned_frames_have_no_cls_tokens() -> None:
    layout = PatchLayout(2, 1, 2, cls_per_input=1, is_video=True)
    units = [unit([0, 1], [0]), unit([2, 3], [0])]
    encoded = assemble(layout, units, cls_tokens=np.array([[40.0], [50.0]], np.float32))
    assert encoded.positions.tolist() == [0, 2]
    assert encoded.num_tokens_total == 6


def test_tokens_without_a_patch_get_a_position_in_their_own_frame() -> None:
    origins, clusters = np.array([TokenOrigin.CLS, 2]), np.array([-1, -1, 1])
    features = np.zeros((2, 1), np.float32)
    units = [(np.arange(3) + start, tokens_of(features, origins, clusters)) for start in (0, 3)]
    encoded = assemble(PatchLayout(2, 1, 3), units)
    assert encoded.positions.tolist() == [0, 2, 3, 5]
    assert np.unique(encoded.positions).size == 4
