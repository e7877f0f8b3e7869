"""Forward passes of a continuous batch, and its key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812  # its usual name
from transformers import DynamicCache

from llm_service.models.base import ModelInputs, VisionLanguageModel

__all__ = ["ModelRunner"]


class ModelRunner:
    """Prefills and decodes on tensors alone.

    The batch is padded on the left, so that all sequences grow at the same index. T is the length of the longest
    sequence so far. The mask [B, T] separates cached tokens from padding, and each sequence has its own position ids.
    New sequences are appended. When a sequence leaves, padding that only it needed is cut off.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._causal_lm = model.causal_lm
        self._device = model.device
        self._position_axes = torch.Size()  # leading axes of the position ids, before [B, T]
        self.clear()

    def __len__(self) -> int:
        return len(self._next_position_ids)

    def clear(self) -> None:
        """Removes all sequences."""
        self._cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=self._device)
        self._next_position_ids = torch.zeros(0, dtype=torch.long, device=self._device)

    def prefill(self, prompts: Sequence[ModelInputs]) -> torch.Tensor:
        """Runs b prompts and appends them to the batch. If it fails, the batch is unchanged.

        Returns:
            [b, V] float32 logits of the first tokens.
        """
        length = max(len(prompt.inputs_embeds) for prompt in prompts)
        padding = [length - len(prompt.inputs_embeds) for prompt in prompts]
        padded = list(zip(prompts, padding, strict=True))
        inputs_embeds = torch.stack([F.pad(prompt.inputs_embeds, (0, 0, left, 0)) for prompt, left in padded])
        # [b, T], or [3, b, T] for position ids with three axes.
        position_ids = torch.stack([F.pad(prompt.position_ids, (left, 0)) for prompt, left in padded], dim=-2)
        mask = torch.ones(len(padded), length, dtype=torch.long, device=self._device)
        for sequence_mask, left in zip(mask, padding, strict=True):
            sequence_mask[:left] = 0
        cache = DynamicCache()
        output = self._causal_lm(
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        next_position_ids = torch.tensor([prompt.next_position_id for prompt in prompts], device=self._device)
        self._position_axes = position_ids.shape[:-2]
        self._append(cache, mask, next_position_ids)
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Runs one token of each of the B sequences. If it fails, the batch must be cleared with `clear`.

        Returns:
            [B, V] float32 logits of the next tokens.
        """
        self._mask = F.pad(self._mask, (0, 1), value=1)
        output = self._causal_lm(
            input_ids=torch.tensor(token_ids, device=self._device)[:, None],
            attention_mask=self._mask,
            position_ids=self._next_position_ids[:, None].expand(*self._position_axes, -1, -1),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next_position_ids = self._next_position_ids + 1
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def keep(self, indices: Sequence[int]) -> None:
        """Removes all sequences but those with the given indices, which stay in the given order."""
        if not indices:
            self.clear()
            return
        index = torch.tensor(indices, device=self._device)
        mask = self._mask[index]
        left = int(mask.any(dim=0).int().argmax())
        self._mask = mask[:, left:]
        self._next_position_ids = self._next_position_ids[index]
        self._cache = DynamicCache(
            [(keys[index, :, left:], values[index, :, left:]) for keys, values, *_ in self._cache]
        )

    def _append(self, cache: DynamicCache, mask: torch.Tensor, next_position_ids: torch.Tensor) -> None:
        if len(self):
            length = max(mask.shape[1], self._mask.shape[1])

            def concatenate(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
                """[B + b, heads, T, D] of two left-padded batches."""
                return torch.cat([F.pad(batch, (0, 0, length - batch.shape[2], 0)) for batch in (old, new)])

            cache = DynamicCache(
                [
                    (concatenate(old_keys, new_keys), concatenate(old_values, new_values))
                    for (old_keys, old_values, *_), (new_keys, new_values, *_) in zip(self._cache, cache, strict=True)
                ]
            )
            mask = torch.cat([F.pad(batch, (length - batch.shape[1], 0)) for batch in (self._mask, mask)])
            next_position_ids = torch.cat([self._next_position_ids, next_position_ids])
        self._cache, self._mask, self._next_position_ids = cache, mask, next_position_ids
