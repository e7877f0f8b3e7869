"""The tower's input from the pixels of a batch: one copy to the device, one table look-up on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.models.media_features import TowerInputs
from encoder_service.models.pixel_table import NUM_CHANNELS, NUM_LEVELS, PixelTables
from fovea.modeling.transfers import to_device

__all__ = ["PixelNormalizer"]

_Rows: TypeAlias = npt.NDArray[np.uint8]
_Piece: TypeAlias = list[tuple[_Rows, bool]]

# Most bytes of pixels that are copied and looked up at once: 49 squares of 336 x 336. The buffer has as many. Their
# indices in the table, which are kept on the device, have four times as many.
_MAX_PIECE_BYTES: Final = 2**24


class PixelNormalizer:
    """Pixels of media to pixel values on the device, equal to those of the checkpoint's own processor.

    One byte a value goes to the device. The float is looked up there, in a table that the processor made. The table is
    cast to the compute dtype, so in half precision a pixel value is the cast float32 value.

    All pixels of a batch are put one after the other into one buffer, so that the number of torch operations does not
    depend on the number of media: 6 on the CPU for one kind of media, 7 on CUDA, one or two more for images and videos
    together. A batch of more than 16 MiB goes through the buffer in pieces of that size. The buffer is pinned for CUDA
    and kept for the next batch, so only one thread may call this. Before it is written again, an event says that it was
    copied.

    Args:
        tables: Tables of the media processor.
        row_shape: Shape in which the tower takes a row of pixels (a square, a patch); the channels come first.
        device: Device of the tower.
        dtype: Compute dtype.
    """

    def __init__(
        self, tables: PixelTables, row_shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> None:
        by_kind = np.stack([tables.images] if tables.videos is None else [tables.images, tables.videos])
        self._device = device
        self._row_shape = row_shape
        self._row_bytes = math.prod(row_shape)
        self._channel_size = self._row_bytes // NUM_CHANNELS
        self._values = torch.from_numpy(by_kind).to(device, dtype).flatten()
        # Where the table of each channel starts in `_values`, [kinds, 3, 1].
        self._starts = np.arange(0, by_kind.size, NUM_LEVELS, dtype=np.int32).reshape(len(by_kind), NUM_CHANNELS, 1)
        self._starts_by_kind = [torch.from_numpy(starts).to(device) for starts in self._starts]
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._memory: npt.NDArray[np.uint8] = self._buffer.numpy()
        self._indices = torch.empty(0, dtype=torch.int32, device=device)
        self._copied: torch.cuda.Event | None = None

    def __call__(self, inputs: Sequence[TowerInputs]) -> Tensor:
        """Pixel values of the pixels of `inputs`, one after the other, [rows, *row_shape]."""
        pieces = list(self._pieces(inputs))
        if len(pieces) == 1:
            return self._look_up(pieces[0]).view(-1, *self._row_shape)
        sizes = [self._row_bytes * sum(len(rows) for rows, _ in piece) for piece in pieces]
        pixel_values = torch.empty(sum(sizes), dtype=self._values.dtype, device=self._device)
        for piece, part in zip(pieces, pixel_values.split(sizes), strict=True):
            self._look_up(piece, out=part)
        return pixel_values.view(-1, *self._row_shape)

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the buffer that is kept."""
        return len(self._buffer)

    def _pieces(self, inputs: Sequence[TowerInputs]) -> Iterator[_Piece]:
        """Rows [R, 3, K] with whether they are of a video, in order, at most `_MAX_PIECE_BYTES` together."""
        most = max(_MAX_PIECE_BYTES // self._row_bytes, 1)
        piece: _Piece = []
        space = most
        for media in inputs:
            rows = media.pixels.reshape(-1, NUM_CHANNELS, self._channel_size)
            while len(rows):
                if not space:
                    yield piece
                    piece, space = [], most
                piece.append((rows[:space], media.layout.is_video))
                rows, space = rows[space:], space - len(piece[-1][0])
        yield piece

    def _look_up(self, piece: _Piece, *, out: Tensor | None = None) -> Tensor:
        """Pixel values of a piece, [R * 3 * K]."""
        pixels = self._on_device([rows for rows, _ in piece])
        # int32: half the memory and time of int64, and memory that need not be mapped again for each batch.
        indices = self._indices.as_strided(pixels.shape, pixels.stride())
        torch.add(pixels, self._starts_of(piece), out=indices)
        return torch.index_select(self._values, 0, indices.view(-1), out=out)

    def _starts_of(self, piece: _Piece) -> Tensor:
        """Where the table of each channel starts, [3, 1], or [R, 3, 1] if the piece has images and videos."""
        kinds = [int(is_video) for _, is_video in piece]
        if len(set(kinds)) == 1:
            return self._starts_by_kind[kinds[0]]
        starts = self._starts[np.repeat(kinds, [len(rows) for rows, _ in piece])]
        return to_device(torch.from_numpy(starts), self._device)

    def _on_device(self, arrays: Sequence[_Rows]) -> Tensor:
        """Rows [R, 3, K] uint8 on the device; on the CPU they lie in the buffer."""
        if self._copied is not None:
            self._copied.synchronize()  # the copy of the last batch may still read the buffer
        shape = (sum(map(len, arrays)), NUM_CHANNELS, self._channel_size)
        size = math.prod(shape)
        if size > len(self._buffer):
            self._grow(1 << (size - 1).bit_length())  # to powers of two, so that it happens a few times only
        np.concatenate(arrays, out=self._memory[:size].reshape(shape))
        staged = self._buffer.as_strided(shape, (self._row_bytes, self._channel_size, 1))
        if self._device.type != "cuda":
            return staged
        pixels = staged.to(self._device, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(self._device))
        return pixels

    @torch.inference_mode(False)  # tensors made in inference mode could be written in no other
    def _grow(self, size: int) -> None:
        self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        self._memory = self._buffer.numpy()
        self._indices = torch.empty(size, dtype=torch.int32, device=self._device)
