"""Decoding rows whose layers have caches of different lengths, each at its own rotary positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name
from transformers import DynamicCache

from llm_service.engines.pruned_prefill import PrefilledRow
from llm_service.models.decoder import LayeredDecoder

__all__ = ["PrunedCache"]

IntArray = npt.NDArray[np.int64]


class PrunedCache:
    """Keys and values of B rows and L layers, rows of any methods side by side.

    In each layer rows are padded on the left up to the longest, so that all grow at the same place. A row's real
    positions are the last `lengths[row, layer]`, which is all that the masks need: layers of equal lengths share one.
    """

    def __init__(self, decoder: LayeredDecoder) -> None:
        self._decoder = decoder
        self.clear()

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> IntArray:
        """[B, L] cached positions of each row in each layer."""
        return self._lengths.copy()

    def clear(self) -> None:
        """Forgets all rows."""
        self._cache = DynamicCache()
        self._lengths: IntArray = np.zeros((0, self._decoder.num_layers), np.int64)
        self._next_positions: IntArray = self._lengths

    def append(self, rows: Sequence[PrefilledRow]) -> None:
        """Adds prefilled rows after those that are there; if it fails, nothing has changed."""
        parts = [[(keys, values) for keys, values, *_ in row.cache] for row in rows]
        lengths = np.array([[keys.shape[2] for keys, _ in part] for part in parts], np.int64)
        positions = np.array([row.next_positions.tolist() for row in rows], np.int64)
        if len(self):
            parts.insert(0, [(keys, values) for keys, values, *_ in self._cache])
        self._cache = DynamicCache([_stacked(pairs) for pairs in zip(*parts, strict=True)])
        self._lengths = np.vstack([self._lengths, lengths])
        self._next_positions = np.vstack([self._next_positions, positions])

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all rows but those with the given indices, which stay in the given order, and padding none needs."""
        if not rows:
            self.clear()
            return
        self._lengths, self._next_positions = self._lengths[list(rows)], self._next_positions[list(rows)]
        index = torch.tensor(rows, device=self._cache.layers[0].keys.device)
        self._cache = DynamicCache(
            [
                (keys[index, :, keys.shape[2] - longest :], values[index, :, keys.shape[2] - longest :])
                for (keys, values, *_), longest in zip(self._cache, self._lengths.max(axis=0).tolist(), strict=True)
            ]
        )

    def decode(self, embeddings: Tensor) -> Tensor:
        """Runs one token of each row; if it fails, the rows are of no use any more: `clear` them.

        Args:
            embeddings: [B, D].

        Returns:
            [B, D] final-norm states.
        """
        self._lengths = self._lengths + 1
        masks, mask_of = self._masks()
        rotaries, rotary_of = self._rotaries(embeddings.device)
        hidden = embeddings[:, None]
        for index in range(self._decoder.num_layers):
            rotary, mask = rotaries[rotary_of[index]], masks[mask_of[index]]
            hidden = self._decoder.layer(index, hidden, rotary, mask, self._cache)
        self._next_positions = self._next_positions + 1
        return self._decoder.norm(hidden[:, 0])

    def _masks(self) -> tuple[list[Tensor | None], list[int]]:
        """One mask for each set of lengths that occurs, and which of them each layer takes."""
        distinct, which = np.unique(self._lengths, axis=1, return_inverse=True)
        return [self._decoder.padding_mask(lengths) for lengths in distinct.T.tolist()], which.ravel().tolist()

    def _rotaries(self, device: torch.device) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
        """Likewise for the rotary tables, made in one go."""
        distinct, which = np.unique(self._next_positions, axis=1, return_inverse=True)
        positions = torch.from_numpy(distinct.T.reshape(-1, 1).copy()).to(device)
        cos, sin = (table.split(len(self)) for table in self._decoder.rotary(positions))
        return list(zip(cos, sin, strict=True)), which.ravel().tolist()


def _stacked(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Keys and values [sum of B, heads, T, d] of parts [B, heads, their own T, d], padded on the left."""
    longest = max(keys.shape[2] for keys, _ in pairs)
    keys, values = (
        torch.cat([F.pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts])
        for parts in zip(*pairs, strict=True)
    )
    return keys, values
