"""The forward passes of a batch whose rows come and go, and its key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812  # its usual name
from transformers import DynamicCache

from llm_service.models.base import ModelInputs, VisionLanguageModel

__all__ = ["ModelRunner"]


class ModelRunner:
    """Prefills and decodes; knows tensors, but no requests, no text and no queue.

    Rows are padded on the left, so that all of them grow at the same place: T is the longest row so far, the mask
    [B, T] tells real positions from padding, and each row counts its own positions. Who joins is appended after the
    rows that are there; who leaves takes the padding along that only it had needed.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._causal_lm = model.causal_lm
        self._device = model.device
        self._axes = torch.Size()  # in front of [B, T] in position ids
        self.clear()

    def __len__(self) -> int:
        return len(self._next_positions)

    def clear(self) -> None:
        """Forgets all rows."""
        self._cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=self._device)
        self._next_positions = torch.zeros(0, dtype=torch.long, device=self._device)

    def prefill(self, newcomers: Sequence[ModelInputs]) -> torch.Tensor:
        """Runs the prompts of b rows and adds them to the batch; if it fails, the batch is as it was.

        Returns:
            [b, V] float32 logits of each one's first token.
        """
        length = max(len(one.inputs_embeds) for one in newcomers)
        padding = [length - len(one.inputs_embeds) for one in newcomers]
        pairs = list(zip(newcomers, padding, strict=True))
        inputs_embeds = torch.stack([F.pad(one.inputs_embeds, (0, 0, left, 0)) for one, left in pairs])
        # [b, T], or [3, b, T] where positions have three axes.
        position_ids = torch.stack([F.pad(one.position_ids, (left, 0)) for one, left in pairs], dim=-2)
        mask = torch.ones(len(pairs), length, dtype=torch.long, device=self._device)
        for row, left in zip(mask, padding, strict=True):
            row[:left] = 0
        cache = DynamicCache()
        output = self._causal_lm(
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        next_positions = torch.tensor([one.next_position for one in newcomers], device=self._device)
        self._axes = position_ids.shape[:-2]
        self._append(cache, mask, next_positions)
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Runs one token of each of the B rows. If it fails, the batch is of no use any more: `clear` it.

        Returns:
            [B, V] float32 logits of each one's next token.
        """
        self._mask = F.pad(self._mask, (0, 1), value=1)
        output = self._causal_lm(
            input_ids=torch.tensor(token_ids, device=self._device)[:, None],
            attention_mask=self._mask,
            position_ids=self._next_positions[:, None].expand(*self._axes, -1, -1),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next_positions = self._next_positions + 1
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all rows but those with the given indices, which stay in the given order."""
        if not rows:
            self.clear()
            return
        index = torch.tensor(rows, device=self._device)
        mask = self._mask[index]
        left = int(mask.any(dim=0).int().argmax())
        self._mask = mask[:, left:]
        self._next_positions = self._next_positions[index]
        self._cache = DynamicCache([(k[index, :, left:], v[index, :, left:]) for k, v, *_ in self._cache])

    def _append(self, cache: DynamicCache, mask: torch.Tensor, next_positions: torch.Tensor) -> None:
        if len(self):
            length = max(mask.shape[1], self._mask.shape[1])

            def stacked(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
                """[B + b, heads, T, D]"""
                return torch.cat([F.pad(part, (0, 0, length - part.shape[2], 0)) for part in (old, new)])

            cache = DynamicCache(
                [
                    (stacked(old_k, new_k), stacked(old_v, new_v))
                    for (old_k, old_v, *_), (new_k, new_v, *_) in zip(self._cache, cache, strict=True)
                ]
            )
            mask = torch.cat([F.pad(part, (length - part.shape[1], 0)) for part in (self._mask, mask)])
            next_positions = torch.cat([self._next_positions, next_positions])
        self._cache, self._mask, self._next_positions = cache, mask, next_positions
