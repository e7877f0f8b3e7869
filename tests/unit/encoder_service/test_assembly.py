"""Tower inputs become one image or video, in the order in which the language model reads them."""

from __future__ import annotations

import numpy as np
import torch

from encoder_service.encoded_media import assemble
from encoder_service.joining import join_tiles
from encoder_service.media_features import MediaFeatures, PatchLayout
from encoder_service.pruners.base import PrunedTokens, TokenOrigin, TowerFeatures
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, SALIENCY_LAST, OutputKind, TowerOutput
from encoder_service.tiling import tiled_image, without_padding


def numbered(
    layout: PatchLayout, positions: list[list[int]], *, cls_tokens: torch.Tensor | None = None
) -> MediaFeatures:
    """Each patch's feature is its own number."""
    tower_features = tuple(
        TowerFeatures(torch.tensor(p, dtype=torch.float32)[:, None], (1, len(p)), {}) for p in positions
    )
    return MediaFeatures(layout, tower_features, tuple(torch.tensor(p) for p in positions), cls_tokens)


def whole(media: MediaFeatures) -> list[PrunedTokens]:
    return [PrunedTokens.unpruned(features) for features in media.tower_features]


# A base tile of 2 x 2 patches (0..3) and two tiles side by side (4..7 and 8..11); the upper line is padding.
TILED = PatchLayout(3, 2, 2, mosaic=torch.tensor([[6, 7, 10, 11]]))
TILES = [[0, 1, 2, 3], [6, 7], [10, 11]]


def test_an_unpruned_tiled_image_is_read_row_by_row_across_its_tiles() -> None:
    layout = PatchLayout(3, 2, 2, mosaic=torch.tensor([[4, 5, 8, 9], [6, 7, 10, 11]]))
    media = numbered(layout, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    encoded = assemble(media, whole(media))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    assert encoded.features[:, 0].tolist() == encoded.positions.tolist()
    assert encoded.newline_after.tolist() == [7, 11]
    assert encoded.cluster_of_patch[encoded.positions].tolist() == list(range(12))


def test_padding_makes_no_token() -> None:
    media = numbered(TILED, TILES)
    encoded = assemble(media, whole(media))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 6, 7, 10, 11]
    assert encoded.num_tokens_total == 8
    assert encoded.newline_after.tolist() == [7]
    assert encoded.cluster_of_patch.tolist() == [0, 1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7]


def test_a_pruned_tiled_image_has_no_newlines_and_its_maps_cover_all_patches() -> None:
    media = numbered(TILED, TILES)
    kept = [torch.tensor([1]), torch.tensor([1]), torch.tensor([0])]
    pruned = [
        PrunedTokens(
            features.hidden[keep], keep, torch.zeros(len(features.hidden), dtype=torch.int64), features.hidden[:, 0]
        )
        for features, keep in zip(media.tower_features, kept, strict=True)
    ]
    encoded = assemble(media, pruned)
    assert encoded.positions.tolist() == [1, 7, 10]
    assert encoded.newline_after.tolist() == []
    assert encoded.cluster_of_patch.tolist() == [0, 0, 0, 0, -1, -1, 1, 1, -1, -1, 2, 2]
    assert encoded.task_map is not None
    assert encoded.task_map.tolist() == [0, 1, 2, 3, 0, 0, 6, 7, 0, 0, 10, 11]
    assert encoded.saliency_map is None


def test_rows_without_a_patch_end_after_the_base_tile() -> None:
    narrow = PatchLayout(3, 2, 2, mosaic=torch.empty(4, 0, dtype=torch.int64))
    media = numbered(narrow, [[0, 1, 2, 3]])
    assert assemble(media, whole(media)).newline_after.tolist() == [3, 3, 3, 3]
    flat = numbered(PatchLayout(3, 2, 2, mosaic=torch.empty(0, 4, dtype=torch.int64)), [[0, 1, 2, 3]])
    assert assemble(flat, whole(flat)).newline_after.tolist() == []


def test_tokens_of_tiles_are_read_group_by_group_and_only_the_first_group_across_tiles() -> None:
    layout = PatchLayout(3, 2, 2, mosaic=torch.tensor([[4, 5, 8, 9], [6, 7, 10, 11]]))
    media = numbered(layout, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    kept, groups = torch.tensor([3, 0, 2]), torch.tensor([1, 0, 0])
    pruned = [
        PrunedTokens(features.hidden[kept], kept, torch.tensor([1, 0, 2, 0]), reading_group=groups)
        for features in media.tower_features
    ]
    encoded = assemble(media, pruned)
    assert encoded.positions.tolist() == [3, 0, 2, 4, 8, 6, 10, 7, 11]
    assert encoded.features[:, 0].tolist() == encoded.positions.tolist()
    assert encoded.cluster_of_patch.tolist() == [1, 0, 2, 0, 3, 7, 5, 7, 4, 8, 6, 8]


def test_padding_is_removed_from_all_features_of_a_tile() -> None:
    tile = torch.arange(4.0)[:, None]
    outputs = {
        SALIENCY_LAST: tile[:, 0],
        TowerOutput(OutputKind.JOINT, qkv="qqv"): torch.cat([torch.tensor([[-1.0]]), tile]),
        CLS_HIDDEN: torch.tensor([-1.0]),
    }
    media = without_padding(TILED, [TowerFeatures(tile, (2, 2), outputs)] * 3)
    assert [features.grid for features in media.tower_features] == [(2, 2), (1, 2), (1, 2)]
    assert [positions.tolist() for positions in media.patch_positions] == TILES
    features = media.tower_features[1]
    assert features.hidden[:, 0].tolist() == [2, 3]
    assert features.outputs[SALIENCY_LAST].tolist() == [2, 3]
    assert features.outputs[TowerOutput(OutputKind.JOINT, qkv="qqv")][:, 0].tolist() == [-1, 2, 3]
    assert features.outputs[CLS_HIDDEN].tolist() == [-1]


def test_a_tile_of_a_pruned_tower_keeps_the_kept_patches_that_are_not_padding() -> None:
    left = TowerFeatures(torch.tensor([[1.0], [2.0]]), (2, 2), {}, torch.tensor([1, 2]))
    media = without_padding(TILED, [left] * 3)
    assert [features.hidden[:, 0].tolist() for features in media.tower_features] == [[1, 2], [2], [2]]
    assert [
        features.kept_in_tower.tolist() for features in media.tower_features if features.kept_in_tower is not None
    ] == [
        [1, 2],
        [0],
        [0],
    ]


def test_a_tile_of_padding_is_left_out_and_the_others_keep_their_positions() -> None:
    layout = PatchLayout(
        4, 2, 2, mosaic=torch.tensor([[8], [10]])
    )  # three tiles side by side, only the middle one shows
    media = without_padding(layout, [TowerFeatures(torch.zeros(4, 1), (2, 2), {})] * 4)
    assert [positions.tolist() for positions in media.patch_positions] == [[0, 1, 2, 3], [8, 10]]
    assert media.tower_features[1].grid == (2, 1)
    assert tiled_image(media).tile_at.tolist() == [[1], [1]]


def test_joined_tiles_are_in_reading_order() -> None:
    layout = PatchLayout(3, 2, 2, mosaic=torch.tensor([[4, 5, 8, 9], [6, 7, 10, 11]]))
    numbers = [torch.arange(4.0) + 4 * i for i in range(3)]
    tower_features = tuple(
        TowerFeatures(one[:, None], (2, 2), {SALIENCY_LAST: one, CLS_HIDDEN: torch.tensor([3.0 * i])})
        for i, one in enumerate(numbers)
    )
    media = join_tiles(MediaFeatures(layout, tower_features, tuple(torch.arange(4) + 4 * i for i in range(3))))
    order = [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    (one,) = media.tower_features
    assert media.patch_positions[0].tolist() == order
    assert one.hidden[:, 0].tolist() == order
    assert one.outputs[SALIENCY_LAST].tolist() == order
    assert one.outputs[CLS_HIDDEN].tolist() == [3]  # the mean
    kept = torch.tensor([9, 2])
    encoded = assemble(media, [PrunedTokens.of_patches(one, kept)])
    assert encoded.positions.tolist() == [7, 2]


def test_a_frame_that_keeps_nothing_leaves_no_token() -> None:
    media = numbered(PatchLayout(2, 1, 2), [[0, 1], [2, 3]])
    encoded = assemble(media, [None, PrunedTokens.of_patches(media.tower_features[1], torch.tensor([1]))])
    assert encoded.positions.tolist() == [3]
    assert encoded.cluster_of_patch.tolist() == [-1, -1, -1, 0]


def test_unpruned_frames_begin_with_their_cls_tokens() -> None:
    layout = PatchLayout(2, 1, 2, cls_per_input=1, is_video=True)
    media = numbered(layout, [[0, 1], [2, 3]], cls_tokens=torch.tensor([[40.0], [50.0]]))
    encoded = assemble(media, whole(media))
    assert encoded.features[:, 0].tolist() == [40, 0, 1, 50, 2, 3]
    assert encoded.positions.tolist() == [4, 0, 1, 5, 2, 3]
    assert encoded.cluster_of_patch.tolist() == [1, 2, 4, 5]
    assert encoded.num_tokens_total == 6


def test_pruned_frames_have_no_cls_tokens() -> None:
    layout = PatchLayout(2, 1, 2, cls_per_input=1, is_video=True)
    media = numbered(layout, [[0, 1], [2, 3]], cls_tokens=torch.tensor([[40.0], [50.0]]))
    encoded = assemble(
        media, [PrunedTokens.of_patches(features, torch.tensor([0])) for features in media.tower_features]
    )
    assert encoded.positions.tolist() == [0, 2]
    assert encoded.num_tokens_total == 6


def test_tokens_without_a_patch_get_a_position_in_their_own_frame() -> None:
    media = numbered(PatchLayout(2, 1, 3), [[0, 1, 2], [3, 4, 5]])
    rows = torch.tensor([TokenOrigin.CLS, 2])
    cluster_of_patch = torch.tensor([-1, -1, 1])
    encoded = assemble(media, [PrunedTokens(torch.zeros(2, 1), rows, cluster_of_patch) for _ in media.tower_features])
    assert encoded.positions.tolist() == [0, 2, 3, 5]
    assert np.unique(encoded.positions).size == 4
