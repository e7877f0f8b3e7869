"""Rows as the wire takes them: each at a patch of its own, in the method's order, nothing lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TowerFeatures
from encoder_service.pruners.places import with_places
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_ONE_HEAD


def rows(origins: list[int], num_patches: int) -> PrunedTokens:
    """Rows whose feature is their number."""
    cluster_of_patch = torch.full((num_patches,), -1)
    for row, index in reversed(list(enumerate(origins))):
        if index >= 0:
            cluster_of_patch[index] = row
    return PrunedTokens(torch.arange(len(origins))[:, None].float(), torch.tensor(origins), cluster_of_patch)


@pytest.mark.parametrize(
    ("origins", "places"),
    [
        ([1, 3, 4], [1, 3, 4]),
        ([4, 1, 3], [4, 1, 3]),  # a method that ranks its rows
        ([-1, 0, 4, 2, -2], [1, 0, 4, 2, 5]),  # CLS at the first free patch, a sum at the last
        ([5, 2, 5, -3, -3], [5, 2, 4, 6, 7]),  # a repeat and rows of zeros at the last, in their order
    ],
)
def test_rows_stay_where_they_are_and_those_of_no_patch_find_a_free_one(origins: list[int], places: list[int]) -> None:
    pruned = rows(origins, max(places) + 1)
    placed = with_places(pruned)
    assert placed.origins.tolist() == places
    assert torch.equal(placed.features, pruned.features)
    assert torch.equal(placed.cluster_of_patch, pruned.cluster_of_patch)


@given(st.lists(st.integers(-3, 11), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_each_row_has_a_patch_of_its_own_and_merged_into_tells_which_stand_for_it(origins: list[int]) -> None:
    placed = with_places(rows(origins, 12))
    places = placed.origins.tolist()
    assert len(set(places)) == len(places)
    assert set(places) <= set(range(12))
    stands_for_it = [int(placed.cluster_of_patch[place]) == row for row, place in enumerate(places)]
    first_of_its_patch = [index >= 0 and index not in origins[:row] for row, index in enumerate(origins)]
    assert stands_for_it == first_of_its_patch
    assert all(place == index for place, index, own in zip(places, origins, stands_for_it, strict=True) if own)


@pytest.mark.parametrize("pruner", ["prumerge", "prumerge_plus"])
@given(seed=st.integers(0, 1000), keep=st.integers(1, 23), fidelity=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_sum_of_dropped_patches_lies_at_one_of_them(pruner: str, seed: int, keep: int, fidelity: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, keys = torch.randn(24, 5, generator=generator), torch.randn(24, 3, generator=generator)
    outputs = {SALIENCY_ONE_HEAD: torch.rand(24, generator=generator), KEYS: keys}
    bound = PRUNERS[pruner].bind({"fidelity": fidelity} if pruner == "prumerge_plus" else {})
    pruned = bound.prune(PrunerInput(TowerFeatures(hidden, (4, 6), outputs), keep))
    placed = with_places(pruned)
    assert pruned.origins[-1] == -2
    assert placed.cluster_of_patch[placed.origins[-1]] == len(placed.features) - 1
