"""Chunks of large patch grids."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TowerFeatures
from encoder_service.pruners.chunks import MAX_PATCHES, allocate_budget, chunk_grid
from encoder_service.pruners.tower_outputs import SALIENCY_LAST, OutputKind, TowerOutput


@given(st.integers(1, 200), st.integers(1, 200))
def test_chunks_hold_every_row_once_in_order_and_have_a_bounded_size(rows: int, columns: int) -> None:
    chunks = chunk_grid((rows, columns))
    assert [chunk.patches.start for chunk in chunks] == [0, *(chunk.patches.stop for chunk in chunks[:-1])]
    assert chunks[-1].patches.stop == rows * columns
    assert all(chunk.size == chunk.patches.stop - chunk.patches.start for chunk in chunks)
    assert all(chunk.size <= max(MAX_PATCHES, columns) for chunk in chunks)


def test_a_usual_image_is_one_chunk() -> None:
    assert [chunk.grid for chunk in chunk_grid((24, 24))] == [(24, 24)]
    assert [chunk.grid for chunk in chunk_grid((32, 64))] == [(32, 64)]
    assert [chunk.grid for chunk in chunk_grid((128, 128))] == [(16, 128)] * 8
    assert [chunk.size for chunk in chunk_grid((1, 4097))] == [1365, 1366, 1366]


@given(st.data())
def test_a_budget_is_allocated_exactly(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    masses = [data.draw(st.floats(0, 1)) for _ in sizes]
    keep = data.draw(st.integers(1, sum(sizes)))
    budgets = allocate_budget(masses, sizes, keep)
    assert sum(budgets) == keep
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes, strict=True))


def test_a_budget_follows_the_masses() -> None:
    assert allocate_budget([0.6, 0.3, 0.1], [100, 100, 100], 10) == [6, 3, 1]
    assert allocate_budget([0.9, 0.1], [3, 10], 8) == [3, 5]


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([1, 2, 3, 7, 400]))
def test_fovea_keeps_exactly_the_budget_of_an_image_in_chunks(keep: int) -> None:
    rows, columns = 66, 64  # three chunks
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
