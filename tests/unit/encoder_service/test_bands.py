"""Bands of large pictures."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.bands import MAX_PATCHES, allocate_budget, bands
from encoder_service.pruners.base import PrunerInput, TowerFeatures
from encoder_service.pruners.tower_outputs import SALIENCY_LAST, OutputKind, TowerOutput


@given(st.integers(1, 200), st.integers(1, 200))
def test_bands_are_all_rows_once_in_order_and_of_bounded_size(rows: int, columns: int) -> None:
    parts = bands((rows, columns))
    assert [band.patches.start for band in parts] == [0, *(band.patches.stop for band in parts[:-1])]
    assert parts[-1].patches.stop == rows * columns
    assert all(band.size == band.patches.stop - band.patches.start <= max(MAX_PATCHES, columns) for band in parts)


def test_a_usual_picture_is_one_band() -> None:
    assert [band.grid for band in bands((24, 24))] == [(24, 24)]
    assert [band.grid for band in bands((32, 64))] == [(32, 64)]
    assert [band.grid for band in bands((128, 128))] == [(16, 128)] * 8
    assert [band.size for band in bands((1, 4097))] == [1365, 1366, 1366]


@given(st.data())
def test_a_budget_is_dealt_out_exactly(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    masses = [data.draw(st.floats(0, 1)) for _ in sizes]
    keep = data.draw(st.integers(1, sum(sizes)))
    dealt = allocate_budget(masses, sizes, keep)
    assert sum(dealt) == keep
    assert all(0 <= count <= size for count, size in zip(dealt, sizes, strict=True))


def test_a_budget_follows_the_masses() -> None:
    assert allocate_budget([0.6, 0.3, 0.1], [100, 100, 100], 10) == [6, 3, 1]
    assert allocate_budget([0.9, 0.1], [3, 10], 8) == [3, 5]


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([1, 2, 3, 7, 400]))
def test_fovea_keeps_exactly_the_budget_of_a_picture_in_bands(keep: int) -> None:
    rows, columns = 66, 64  # three bands
    generator = torch.Generator().manual_seed(0)
    count = rows * columns
    vision = TowerFeatures(
        torch.randn(count, 8, generator=generator),
        (rows, columns),
        {
            TowerOutput(OutputKind.JOINT, qkv="qqv"): torch.randn(count + 1, 4, generator=generator),
            SALIENCY_LAST: torch.rand(count, generator=generator),
        },
    )
    pruned = PRUNERS["fovea"].bind({}).prune(PrunerInput(vision, keep))
    assert len(pruned.origins) == keep == len(set(pruned.origins.tolist()))
    assert pruned.origins.tolist() == sorted(pruned.origins.tolist())
    assert pruned.cluster_of_patch[pruned.origins].tolist() == list(range(keep))
    assert pruned.cluster_of_patch.min() >= 0
    assert pruned.features.isfinite().all()
