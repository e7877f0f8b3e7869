"""Rows as the wire takes them: strictly ascending patches, nothing lost."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners.base import PrunedTokens
from encoder_service.pruners.raster import in_raster_order


def rows(kept_index: list[int], num_patches: int) -> PrunedTokens:
    """Rows whose feature is their number."""
    owner = torch.full((num_patches,), -1)
    for row, index in reversed(list(enumerate(kept_index))):
        if index >= 0:
            owner[index] = row
    return PrunedTokens(torch.arange(len(kept_index))[:, None].float(), torch.tensor(kept_index), owner)


def emitted(pruned: PrunedTokens) -> list[int]:
    return pruned.features[:, 0].int().tolist()


def test_ascending_patches_stay_as_they_are() -> None:
    pruned = rows([1, 3, 4], 6)
    ordered = in_raster_order(pruned)
    assert ordered.kept_index.tolist() == [1, 3, 4]
    assert emitted(ordered) == [0, 1, 2]
    assert ordered.merged_into.tolist() == [-1, 0, -1, 1, 2, -1]


def test_cls_takes_the_first_free_patch_and_sums_the_last() -> None:
    ordered = in_raster_order(rows([-1, 0, 4, 2, -2], 6))
    assert ordered.kept_index.tolist() == [0, 1, 2, 4, 5]
    assert emitted(ordered) == [1, 0, 3, 2, 4]


def test_a_repeated_patch_and_rows_of_zeros_find_places_in_their_order() -> None:
    ordered = in_raster_order(rows([5, 2, 5, -3, -3], 8))
    assert ordered.kept_index.tolist() == [2, 4, 5, 6, 7]
    assert emitted(ordered) == [1, 2, 0, 3, 4]
    assert ordered.merged_into[5] == 2


@given(st.lists(st.integers(-3, 11), min_size=1, max_size=12), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_no_row_is_lost_and_each_stands_at_a_patch_of_its_own(kept_index: list[int], seed: int) -> None:
    pruned = rows(kept_index, 12)
    ordered = in_raster_order(pruned)
    positions = ordered.kept_index.tolist()
    assert positions == sorted(set(positions))
    assert set(positions) <= set(range(12))
    assert sorted(emitted(ordered)) == list(range(len(kept_index)))
    for patch, row in enumerate(pruned.merged_into.tolist()):
        if row < 0:
            assert ordered.merged_into[patch] == -1
        else:  # it is still in the same row, wherever that has gone, and the row in its own place
            assert emitted(ordered)[int(ordered.merged_into[patch])] == row
            assert positions[int(ordered.merged_into[patch])] == patch
    num_patches = sum(int(ordered.merged_into[position]) == row for row, position in enumerate(positions))
    assert num_patches == len({index for index in kept_index if index >= 0})
