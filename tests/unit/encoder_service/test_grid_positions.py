"""Grid positions of kept tokens: a distinct one for each token, in the method's order, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TowerFeatures
from encoder_service.pruners.grid_positions import grid_positions
from encoder_service.pruners.tower_outputs import KEYS, SALIENCY_ONE_HEAD


def clusters(origins: list[int], num_patches: int) -> list[int]:
    """Token of each patch; -1 for a patch of none."""
    cluster_of_patch = [-1] * num_patches
    for token, patch in reversed(list(enumerate(origins))):
        if patch >= 0:
            cluster_of_patch[patch] = token
    return cluster_of_patch


@pytest.mark.parametrize(
    ("origins", "positions"),
    [
        ([1, 3, 4], [1, 3, 4]),
        ([4, 1, 3], [4, 1, 3]),  # a method that ranks its tokens
        ([-1, 0, 4, 2, -2], [1, 0, 4, 2, 5]),  # CLS at the first free patch, a sum at the last
        ([5, 2, 5, -3, -3], [5, 2, 4, 6, 7]),  # a repeat and zero vectors at the last, in their order
    ],
)
def test_tokens_keep_their_order_and_those_of_no_patch_get_a_free_position(
    origins: list[int], positions: list[int]
) -> None:
    assert grid_positions(np.array(origins), max(positions) + 1).tolist() == positions


@given(st.lists(st.integers(-3, 11), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_each_token_has_a_distinct_position_and_cluster_of_patch_tells_which_are_patches(origins: list[int]) -> None:
    positions = grid_positions(np.array(origins), 12).tolist()
    cluster_of_patch = clusters(origins, 12)
    assert len(set(positions)) == len(positions)
    assert set(positions) <= set(range(12))
    is_patch = [cluster_of_patch[position] == token for token, position in enumerate(positions)]
    is_first_of_its_patch = [patch >= 0 and patch not in origins[:token] for token, patch in enumerate(origins)]
    assert is_patch == is_first_of_its_patch
    assert all(position == patch for position, patch, own in zip(positions, origins, is_patch, strict=True) if own)


@pytest.mark.parametrize("pruner", ["prumerge", "prumerge_plus"])
@given(seed=st.integers(0, 1000), keep=st.integers(1, 23), fidelity=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_sum_of_dropped_patches_is_at_the_position_of_one_of_them(
    pruner: str, seed: int, keep: int, fidelity: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, keys = torch.randn(24, 5, generator=generator), torch.randn(24, 3, generator=generator)
    outputs = {SALIENCY_ONE_HEAD: torch.rand(24, generator=generator), KEYS: keys}
    bound = PRUNERS[pruner].bind({"fidelity": fidelity} if pruner == "prumerge_plus" else {})
    pruned = bound.prune(PrunerInput(TowerFeatures(hidden, (4, 6), outputs), keep))
    positions = grid_positions(pruned.origins.numpy(), 24)
    assert pruned.origins[-1] == -2
    assert pruned.cluster_of_patch[positions[-1]] == len(pruned.features) - 1
