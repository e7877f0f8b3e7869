"""Parts become one picture or video, in the order in which the language model reads them."""

from __future__ import annotations

import numpy as np
import torch

from encoder_service.assembly import assemble
from encoder_service.pruners.base import PrunedTokens, Row, VisionFeatures
from encoder_service.visual import Layout, VisualFeatures


def numbered(layout: Layout, places: list[list[int]], *, cls_rows: torch.Tensor | None = None) -> VisualFeatures:
    """Each patch's feature is its own number."""
    parts = tuple(VisionFeatures(torch.tensor(p, dtype=torch.float32)[:, None], (1, len(p)), {}) for p in places)
    return VisualFeatures(layout, parts, tuple(torch.tensor(p) for p in places), cls_rows)


def whole(visual: VisualFeatures) -> list[PrunedTokens]:
    return [PrunedTokens.all_of(part) for part in visual.parts]


# A base tile of 2 x 2 patches (0..3) and two tiles side by side (4..7 and 8..11); the upper line is padding.
TILED = Layout(3, 2, 2, mosaic=torch.tensor([[6, 7, 10, 11]]))
TILES = [[0, 1, 2, 3], [6, 7], [10, 11]]


def test_a_whole_tiled_picture_is_read_line_by_line_across_its_tiles() -> None:
    layout = Layout(3, 2, 2, mosaic=torch.tensor([[4, 5, 8, 9], [6, 7, 10, 11]]))
    visual = numbered(layout, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    encoded = assemble(visual, whole(visual))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    assert encoded.features[:, 0].tolist() == encoded.positions.tolist()
    assert encoded.newline_after.tolist() == [7, 11]
    assert encoded.merged_into[encoded.positions].tolist() == list(range(12))


def test_padding_is_no_token() -> None:
    visual = numbered(TILED, TILES)
    encoded = assemble(visual, whole(visual))
    assert encoded.positions.tolist() == [0, 1, 2, 3, 6, 7, 10, 11]
    assert encoded.num_tokens_total == 8
    assert encoded.newline_after.tolist() == [7]
    assert encoded.merged_into.tolist() == [0, 1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7]


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
    assert encoded.merged_into.tolist() == [0, 0, 0, 0, -1, -1, 1, 1, -1, -1, 2, 2]
    assert encoded.task_map is not None
    assert encoded.task_map.tolist() == [0, 1, 2, 3, 0, 0, 6, 7, 0, 0, 10, 11]
    assert encoded.saliency_map is None


def test_a_part_that_keeps_nothing_leaves_no_row() -> None:
    visual = numbered(Layout(2, 1, 2), [[0, 1], [2, 3]])
    encoded = assemble(visual, [None, PrunedTokens.some_of(visual.parts[1], torch.tensor([1]))])
    assert encoded.positions.tolist() == [3]
    assert encoded.merged_into.tolist() == [-1, -1, -1, 0]


def test_whole_frames_begin_with_their_cls_rows() -> None:
    layout = Layout(2, 1, 2, cls_per_part=1, is_video=True)
    visual = numbered(layout, [[0, 1], [2, 3]], cls_rows=torch.tensor([[40.0], [50.0]]))
    encoded = assemble(visual, whole(visual))
    assert encoded.features[:, 0].tolist() == [40, 0, 1, 50, 2, 3]
    assert encoded.positions.tolist() == [4, 0, 1, 5, 2, 3]
    assert encoded.merged_into.tolist() == [1, 2, 4, 5]
    assert encoded.num_tokens_total == 6


def test_pruned_frames_have_no_cls_rows() -> None:
    layout = Layout(2, 1, 2, cls_per_part=1, is_video=True)
    visual = numbered(layout, [[0, 1], [2, 3]], cls_rows=torch.tensor([[40.0], [50.0]]))
    encoded = assemble(visual, [PrunedTokens.some_of(part, torch.tensor([0])) for part in visual.parts])
    assert encoded.positions.tolist() == [0, 2]
    assert encoded.num_tokens_total == 6


def test_rows_without_a_patch_get_one_of_their_own_part() -> None:
    visual = numbered(Layout(2, 1, 3), [[0, 1, 2], [3, 4, 5]])
    rows = torch.tensor([Row.CLS, 2])
    owner = torch.tensor([-1, -1, 1])
    encoded = assemble(visual, [PrunedTokens(torch.zeros(2, 1), rows, owner) for _ in visual.parts])
    assert encoded.positions.tolist() == [0, 2, 3, 5]
    assert np.unique(encoded.positions).size == 4
