"""Rows of a matrix of a checkpoint, read from its file when they are needed. The matrix itself is not held.

Rows of a safetensors file are read, not mapped. The operating system keeps what was read in its page cache, as with a
mapping, but the pages do not count as the process's memory: a mapping grows by the pages around each row. And a file
that somebody cuts off while it is open gives an `OSError` for the rows that are gone, where a mapping would end the
process with SIGBUS.

A file that is replaced (renamed over or deleted, as downloads do) stays readable. One that is overwritten in place
gives its new bytes: checkpoints are not to be changed under a running service.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from fovea.modeling.weights import file_errors, find_tensor, read_tensors

__all__ = ["StoredRows", "open_rows"]

_LENGTH_BYTES: Final = 8  # a safetensors file is the length of its header, the header (JSON) and the data


class StoredRows(Protocol):
    """Rows of a stored matrix.

    Attributes:
        shape: Rows N and columns D.
        dtype: Stored dtype.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self, indices: Tensor) -> Tensor:
        """Rows of `indices` [n], [n, D] on the CPU, in the stored dtype.

        Raises:
            OSError: The file has become shorter, or cannot be read any more.
        """
        ...


def open_rows(checkpoint: Path, names: Collection[str]) -> StoredRows | None:
    """Rows of the matrix that has one of `names`; None if the checkpoint holds none of them.

    Args:
        checkpoint: Directory with *.safetensors, and an index if they are several, or with pytorch_model*.bin.
        names: Names of the matrix in the layouts of checkpoints.

    Raises:
        CheckpointError: A file is missing, broken, or shorter than its header says.
    """
    if found := find_tensor(checkpoint, names):
        with file_errors(checkpoint):
            return _SafetensorsRows(*found)
    in_bin = read_tensors(checkpoint, {name: name for name in names}, reads_bin=True)
    return next((_MappedRows(in_bin[name]) for name in names if name in in_bin), None)


class _SafetensorsRows:
    """See `StoredRows`."""

    def __init__(self, path: Path, name: str) -> None:
        with safe_open(path, framework="pt") as file:  # checks the size of the file
            matrix = file.get_slice(name)
            self.shape: tuple[int, ...] = tuple(matrix.get_shape())
            self.dtype: torch.dtype = matrix[:0].dtype
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        length = int.from_bytes(os.pread(self._file, _LENGTH_BYTES, 0), "little")
        header = json.loads(os.pread(self._file, length, _LENGTH_BYTES))
        self._start = _LENGTH_BYTES + length + header[name]["data_offsets"][0]
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, indices: Tensor) -> Tensor:
        rows = torch.empty(len(indices), *self.shape[1:], dtype=self.dtype)
        for index, row in zip(indices.tolist(), rows.view(torch.uint8).numpy(), strict=True):
            if os.preadv(self._file, [row], self._start + index * self._row_bytes) != self._row_bytes:
                raise OSError(f"row {index} of a matrix is gone: its file was cut off while in use")
        return rows


class _MappedRows:
    """See `StoredRows`; of pytorch_model*.bin, which torch maps. Nothing tells where a tensor lies in such a file."""

    def __init__(self, matrix: Tensor) -> None:
        self.shape: tuple[int, ...] = tuple(matrix.shape)
        self.dtype = matrix.dtype
        self._matrix = matrix

    def read(self, indices: Tensor) -> Tensor:
        return self._matrix[indices]
