"""Grids at the limits, and beyond them."""

from __future__ import annotations

import pytest

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire.grids import check_grid


@pytest.mark.parametrize(
    ("sides", "count"),
    [
        ((1, 24, 24, 0), 576),
        ((8, 16, 16, 1), 2056),
        ((4096, 16, 16, 0), 2**20),
        ((1, 65_536, 16, 0), 2**20),
        ((1, 1, 1, 2**20 - 1), 2**20),
    ],
)
def test_number_of_grid_positions(sides: tuple[int, int, int, int], count: int) -> None:
    assert check_grid(grid(*sides)) == count


@pytest.mark.parametrize(
    "sides",
    [
        (0, 1, 1, 0),
        (1, 0, 1, 5),
        (1, 1, 0, 0),
        (4097, 1, 1, 0),
        (1, 65_537, 1, 0),
        (1, 1, 65_537, 0),
        (1, 1025, 1024, 0),
        (4096, 16, 16, 1),
        (2**32 - 1,) * 4,
    ],
)
def test_empty_and_too_large_grids_are_refused(sides: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidRequest, match=r"has no patches|is too large"):
        check_grid(grid(*sides))


def grid(frames: int, rows: int, columns: int, cls_per_frame: int) -> tensor_pb2.Grid:
    return tensor_pb2.Grid(frames=frames, rows=rows, columns=columns, cls_per_frame=cls_per_frame)
