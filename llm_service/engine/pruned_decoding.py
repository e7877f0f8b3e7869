"""Decoding with caches whose lengths differ between layers, and position ids that differ with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name
from transformers import DynamicCache

from llm_service.engine.pruned_prefill import PrefilledSequence
from llm_service.models.decoder import LayeredDecoder

__all__ = ["PrunedCache"]

IntArray = npt.NDArray[np.int64]


class PrunedCache:
    """Keys and values of B sequences in L layers; their pruning methods may differ.

    In each layer the sequences are padded on the left to the longest, so that all grow at the same index. The cached
    tokens of a sequence are the last `lengths[sequence, layer]` ones. Layers of equal lengths share one mask.
    """

    def __init__(self, decoder: LayeredDecoder) -> None:
        self._decoder = decoder
        self.clear()

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> IntArray:
        """[B, L] number of cached tokens of each sequence in each layer."""
        return self._lengths.copy()

    def clear(self) -> None:
        """Removes all sequences."""
        self._cache = DynamicCache()
        self._lengths: IntArray = np.zeros((0, self._decoder.num_layers), np.int64)
        self._next_position_ids: IntArray = self._lengths

    def append(self, sequences: Sequence[PrefilledSequence]) -> None:
        """Appends prefilled sequences. If it fails, the cache is unchanged."""
        caches = [[(keys, values) for keys, values, *_ in sequence.cache] for sequence in sequences]
        lengths = np.array([[keys.shape[2] for keys, _ in cache] for cache in caches], np.int64)
        next_position_ids = np.array([sequence.next_position_ids.tolist() for sequence in sequences], np.int64)
        if len(self):
            caches.insert(0, [(keys, values) for keys, values, *_ in self._cache])
        self._cache = DynamicCache([_concatenate(pairs) for pairs in zip(*caches, strict=True)])
        self._lengths = np.vstack([self._lengths, lengths])
        self._next_position_ids = np.vstack([self._next_position_ids, next_position_ids])

    def keep(self, indices: Sequence[int]) -> None:
        """Removes surplus padding and all sequences but those with the given indices, which stay in the given order."""
        if not indices:
            self.clear()
            return
        self._lengths = self._lengths[list(indices)]
        self._next_position_ids = self._next_position_ids[list(indices)]
        index = torch.tensor(indices, device=self._cache.layers[0].keys.device)
        self._cache = DynamicCache(
            [
                (keys[index, :, keys.shape[2] - longest :], values[index, :, keys.shape[2] - longest :])
                for (keys, values, *_), longest in zip(self._cache, self._lengths.max(axis=0).tolist(), strict=True)
            ]
        )

    def decode(self, embeddings: Tensor) -> Tensor:
        """Runs one token of each sequence. If it fails, the cache must be cleared with `clear`.

        Args:
            embeddings: [B, D] embeddings of the tokens.

        Returns:
            [B, D] states after the final norm.
        """
        self._lengths = self._lengths + 1
        masks, mask_of_layer = self._masks()
        rotaries, rotary_of_layer = self._rotaries(embeddings.device)
        hidden = embeddings[:, None]
        for layer in range(self._decoder.num_layers):
            rotary, mask = rotaries[rotary_of_layer[layer]], masks[mask_of_layer[layer]]
            hidden = self._decoder.layer(layer, hidden, rotary, mask, self._cache)
        self._next_position_ids = self._next_position_ids + 1
        return self._decoder.norm(hidden[:, 0])

    def _masks(self) -> tuple[list[Tensor | None], list[int]]:
        """One mask for each distinct set of lengths, and the index of each layer's mask."""
        distinct, index = np.unique(self._lengths, axis=1, return_inverse=True)
        return [self._decoder.padding_mask(lengths) for lengths in distinct.T.tolist()], index.ravel().tolist()

    def _rotaries(self, device: torch.device) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
        """One rotary table for each distinct set of position ids, and the index of each layer's table."""
        distinct, index = np.unique(self._next_position_ids, axis=1, return_inverse=True)
        position_ids = torch.from_numpy(distinct.T.reshape(-1, 1).copy()).to(device)
        cos, sin = (table.split(len(self)) for table in self._decoder.rotary(position_ids))
        return list(zip(cos, sin, strict=True)), index.ravel().tolist()


def _concatenate(caches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Keys and values [sum of B, heads, T, d] of caches [B, heads, own T, d], padded on the left."""
    longest = max(keys.shape[2] for keys, _ in caches)
    keys, values = (
        torch.cat([F.pad(tensor, (0, 0, longest - tensor.shape[2], 0)) for tensor in tensors])
        for tensors in zip(*caches, strict=True)
    )
    return keys, values
