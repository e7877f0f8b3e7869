"""Limits on the size of a patch grid in a message: the receiver's work and memory grow with it."""

from __future__ import annotations

from typing import Final

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2

__all__ = ["MAX_FRAMES", "MAX_POSITIONS", "MAX_SIDE", "check_grid"]

MAX_FRAMES: Final = 4096
MAX_SIDE: Final = 65_536
MAX_POSITIONS: Final = 1_048_576


def check_grid(grid: tensor_pb2.Grid) -> int:
    """Number of grid positions: those of the patches, then those of the CLS tokens.

    Raises:
        InvalidRequest: the grid has no patches, or exceeds a limit of proto/fovea/v1/tensor.proto.
    """
    name = f"a grid of {grid.frames} x {grid.rows} x {grid.columns} (frames x rows x columns)"
    if not (grid.frames and grid.rows and grid.columns):
        raise InvalidRequest(f"{name} has no patches")
    count = grid.frames * (grid.rows * grid.columns + grid.cls_per_frame)
    if grid.frames > MAX_FRAMES or max(grid.rows, grid.columns) > MAX_SIDE or count > MAX_POSITIONS:
        raise InvalidRequest(
            f"{name} with {grid.cls_per_frame} CLS tokens a frame is too large: up to {MAX_FRAMES} frames, {MAX_SIDE}"
            f" rows and columns, and {MAX_POSITIONS} patches and CLS tokens in all are accepted"
        )
    return int(count)
