"""Parts become one picture or video, in the order in which the language model reads them."""

from __future__ import annotations

import numpy as np
import torch

from encoder_service.assembly import assemble
from encoder_service.pruners.base import PrunedTokens, TokenOrigin, TowerFeatures
from encoder_service.pruners.tower_outputs import CLS_HIDDEN, SALIENCY_LAST, OutputKind, TowerOutput
from encoder_service.tiling import as_one_part, tiled_image, without_padding
from encoder_service.visual import MediaFeatures, PatchLayout


def numbered(layout: PatchLayout, places: list[list[int]], *, cls_rows: torch.Tensor | None = None) -> MediaFeatures:
    """Each patch's feature is its own number."""
    parts = tuple(TowerFeatures(torch.tensor(p, dtype=torch.float32)[:, None], (1, len(p)), {}) for p in places)
    return MediaFeatures(layout, parts, tuple(torch.tensor(p) for p in places), cls_rows)


def whole(visual: MediaFeatures) -> list[PrunedTokens]:
    return [PrunedTokens.unpruned(part) for part in visual.parts]


# A base tile of 2 x 2 patches (0..3) and two tiles side by side (4..7 and 8..11); the upper line is padding.
TILED = PatchLayout(3, 2, 2, mosaic=torch.tensor([[6, 7, 10, 11]]))
TILES = [[0, 1, 2, 3], [6, 7], [10, 11]]


def test_a_whole_tiled_picture_is_read_line_by_line_across_its_tiles() -> None:
    layout = PatchLayout(3, 2, 2, mosaic=torch.tensor([[4, 5, 8, 9], [6, 7, 10, 11]]))
    visual = numbered(layout, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    encoded = assemble(visual, whole(visual))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    assert encoded.features[:, 0].tolist() == encoded.positions.tolist()
    assert encoded.newline_after.tolist() == [7, 11]
    assert encoded.cluster_of_patch[encoded.positions].tolist() == list(range(12))


def test_padding_is_no_token() -> None:
    visual = numbered(TILED, TILES)
    encoded = assemble(visual, whole(visual))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 6, 7, 10, 11]
    assert encoded.num_tokens_total == 8
    assert encoded.newline_after.tolist() == [7]
    assert encoded.cluster_of_patch.tolist() == [0, 1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7]


def test_a_pruned_tiled_picture_has_no_ends_of_lines_and_its_maps_cover_all_patches() -> None:
    visual = numbered(TILED, TILES)
    kept = [torch.tensor([1]), torch.tensor([1]), torch.tensor([0])]
    pruned = [
        PrunedTokens(part.hidden[keep], keep, torch.zeros(len(part.hidden), dtype=torch.int64), part.hidden[:, 0])
        for part, keep in zip(visual.parts, kept, strict=True)
    ]
    encoded = assemble(visual, pruned)
    assert encoded.positions.tolist() == [1, 7, 10]
    assert encoded.newline_after.tolist() == []
    assert encoded.cluster_of_patch.tolist() == [0, 0, 0, 0, -1, -1, 1, 1, -1, -1, 2, 2]
    assert encoded.task_map is not None
    assert encoded.task_map.tolist() == [0, 1, 2, 3, 0, 0, 6, 7, 0, 0, 10, 11]
    assert encoded.saliency_map is None


def test_lines_of_no_patch_end_behind_the_base_tile() -> None:
    narrow = PatchLayout(3, 2, 2, mosaic=torch.empty(4, 0, dtype=torch.int64))
    visual = numbered(narrow, [[0, 1, 2, 3]])
    assert assemble(visual, whole(visual)).newline_after.tolist() == [3, 3, 3, 3]
    flat = numbered(PatchLayout(3, 2, 2, mosaic=torch.empty(0, 4, dtype=torch.int64)), [[0, 1, 2, 3]])
    assert assemble(flat, whole(flat)).newline_after.tolist() == []


def test_rows_of_tiles_are_read_group_by_group_and_only_the_first_across_them() -> None:
    layout = PatchLayout(3, 2, 2, mosaic=torch.tensor([[4, 5, 8, 9], [6, 7, 10, 11]]))
    visual = numbered(layout, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    kept, groups = torch.tensor([3, 0, 2]), torch.tensor([1, 0, 0])
    pruned = [
        PrunedTokens(part.hidden[kept], kept, torch.tensor([1, 0, 2, 0]), reading_group=groups) for part in visual.parts
    ]
    encoded = assemble(visual, pruned)
    assert encoded.positions.tolist() == [3, 0, 2, 4, 8, 6, 10, 7, 11]
    assert encoded.features[:, 0].tolist() == encoded.positions.tolist()
    assert encoded.cluster_of_patch.tolist() == [1, 0, 2, 0, 3, 7, 5, 7, 4, 8, 6, 8]


def test_padding_is_cut_out_of_everything_that_a_pruner_sees() -> None:
    tile = torch.arange(4.0)[:, None]
    outputs = {
        SALIENCY_LAST: tile[:, 0],
        TowerOutput(OutputKind.JOINT, qkv="qqv"): torch.cat([torch.tensor([[-1.0]]), tile]),
        CLS_HIDDEN: torch.tensor([-1.0]),
    }
    visual = without_padding(TILED, [TowerFeatures(tile, (2, 2), outputs)] * 3)
    assert [part.grid for part in visual.parts] == [(2, 2), (1, 2), (1, 2)]
    assert [places.tolist() for places in visual.places] == TILES
    part = visual.parts[1]
    assert part.hidden[:, 0].tolist() == [2, 3]
    assert part.outputs[SALIENCY_LAST].tolist() == [2, 3]
    assert part.outputs[TowerOutput(OutputKind.JOINT, qkv="qqv")][:, 0].tolist() == [-1, 2, 3]
    assert part.outputs[CLS_HIDDEN].tolist() == [-1]


def test_a_tile_of_a_pruned_tower_keeps_those_of_its_survivors_that_are_no_padding() -> None:
    left = TowerFeatures(torch.tensor([[1.0], [2.0]]), (2, 2), {}, torch.tensor([1, 2]))
    visual = without_padding(TILED, [left] * 3)
    assert [part.hidden[:, 0].tolist() for part in visual.parts] == [[1, 2], [2], [2]]
    assert [part.kept_in_tower.tolist() for part in visual.parts if part.kept_in_tower is not None] == [
        [1, 2],
        [0],
        [0],
    ]


def test_a_tile_of_nothing_but_padding_is_left_out_and_the_others_know_their_place() -> None:
    layout = PatchLayout(
        4, 2, 2, mosaic=torch.tensor([[8], [10]])
    )  # three tiles side by side, only the middle one shows
    visual = without_padding(layout, [TowerFeatures(torch.zeros(4, 1), (2, 2), {})] * 4)
    assert [places.tolist() for places in visual.places] == [[0, 1, 2, 3], [8, 10]]
    assert visual.parts[1].grid == (2, 1)
    assert tiled_image(visual).tile_at.tolist() == [[1], [1]]


def test_tiles_seen_as_one_lie_in_reading_order() -> None:
    layout = PatchLayout(3, 2, 2, mosaic=torch.tensor([[4, 5, 8, 9], [6, 7, 10, 11]]))
    numbers = [torch.arange(4.0) + 4 * i for i in range(3)]
    parts = tuple(
        TowerFeatures(one[:, None], (2, 2), {SALIENCY_LAST: one, CLS_HIDDEN: torch.tensor([3.0 * i])})
        for i, one in enumerate(numbers)
    )
    visual = as_one_part(MediaFeatures(layout, parts, tuple(torch.arange(4) + 4 * i for i in range(3))))
    order = [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    (one,) = visual.parts
    assert visual.places[0].tolist() == order
    assert one.hidden[:, 0].tolist() == order
    assert one.outputs[SALIENCY_LAST].tolist() == order
    assert one.outputs[CLS_HIDDEN].tolist() == [3]  # the mean
    kept = torch.tensor([9, 2])
    encoded = assemble(visual, [PrunedTokens.of_patches(one, kept)])
    assert encoded.positions.tolist() == [7, 2]


def test_a_part_that_keeps_nothing_leaves_no_row() -> None:
    visual = numbered(PatchLayout(2, 1, 2), [[0, 1], [2, 3]])
    encoded = assemble(visual, [None, PrunedTokens.of_patches(visual.parts[1], torch.tensor([1]))])
    assert encoded.positions.tolist() == [3]
    assert encoded.cluster_of_patch.tolist() == [-1, -1, -1, 0]


def test_whole_frames_begin_with_their_cls_rows() -> None:
    layout = PatchLayout(2, 1, 2, cls_per_input=1, is_video=True)
    visual = numbered(layout, [[0, 1], [2, 3]], cls_rows=torch.tensor([[40.0], [50.0]]))
    encoded = assemble(visual, whole(visual))
    assert encoded.features[:, 0].tolist() == [40, 0, 1, 50, 2, 3]
    assert encoded.positions.tolist() == [4, 0, 1, 5, 2, 3]
    assert encoded.cluster_of_patch.tolist() == [1, 2, 4, 5]
    assert encoded.num_tokens_total == 6


def test_pruned_frames_have_no_cls_rows() -> None:
    layout = PatchLayout(2, 1, 2, cls_per_input=1, is_video=True)
    visual = numbered(layout, [[0, 1], [2, 3]], cls_rows=torch.tensor([[40.0], [50.0]]))
    encoded = assemble(visual, [PrunedTokens.of_patches(part, torch.tensor([0])) for part in visual.parts])
    assert encoded.positions.tolist() == [0, 2]
    assert encoded.num_tokens_total == 6


def test_rows_without_a_patch_get_one_of_their_own_part() -> None:
    visual = numbered(PatchLayout(2, 1, 3), [[0, 1, 2], [3, 4, 5]])
    rows = torch.tensor([TokenOrigin.CLS, 2])
    cluster_of_patch = torch.tensor([-1, -1, 1])
    encoded = assemble(visual, [PrunedTokens(torch.zeros(2, 1), rows, cluster_of_patch) for _ in visual.parts])
    assert encoded.positions.tolist() == [0, 2, 3, 5]
    assert np.unique(encoded.positions).size == 4
