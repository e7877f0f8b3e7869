"""Prefills into slots: several prompts together, or a chunk of a long one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from fovea.modeling.transfers import to_device
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slots import Slot
from llm_service.models.base import ModelInputs, VisionLanguageModel

__all__ = ["PrefillTensors", "SlotInputs", "SlotPrefill"]


@dataclass(frozen=True)
class SlotInputs:
    """A prompt to prefill, and the slot that its keys and values are written to.

    Attributes:
        inputs: Embeddings and position ids.
        slot: A free slot that holds prompt and answer.
    """

    inputs: ModelInputs
    slot: Slot

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.inputs.length


@dataclass(frozen=True)
class PrefillTensors:
    """All that a prefill of b prompts reads.

    Attributes:
        inputs_embeds: [b, L, H] embeddings, padded on the right.
        position_ids: [b, L] position ids, or [3, b, L].
        placement: [3, b] int64: index of the first vector of each slot, positions of the slot, tokens of the prompt.
        planes: [P, b, L, H] DeepStack planes; None for a family without them.
    """

    inputs_embeds: Tensor
    position_ids: Tensor
    placement: Tensor
    planes: Tensor | None = None


class SlotPrefill:
    """Runs prompts, and writes their keys and values into slots.

    Args:
        model: Language model.
        cache: Keys and values of all slots.
    """

    def __init__(self, model: VisionLanguageModel, cache: SlotCache) -> None:
        self._causal_lm: Any = model.causal_lm
        self._device = model.device
        self._cache = cache

    def tensors(self, prompts: Sequence[SlotInputs]) -> PrefillTensors:
        """Inputs of prompts, padded to the longest.

        Padding is on the right, where no token attends to it, so that the attention needs no mask.
        """
        longest = max(prompt.length for prompt in prompts)
        padded = [(prompt.inputs, longest - prompt.length) for prompt in prompts]
        rows = [(*self._cache.location(prompt.slot), prompt.length) for prompt in prompts]
        planes = [F.pad(inputs.planes, (0, 0, 0, right)) for inputs, right in padded if inputs.planes is not None]
        return PrefillTensors(
            torch.stack([F.pad(inputs.inputs_embeds, (0, 0, 0, right)) for inputs, right in padded]),
            torch.stack([F.pad(inputs.position_ids, (0, right)) for inputs, right in padded], dim=-2),
            to_device(torch.tensor(rows).T.contiguous(), self._device),
            torch.stack(planes, dim=1) if planes else None,
        )

    def forward(self, tensors: PrefillTensors) -> Tensor:
        """[b, V] logits of the last token of each prompt."""
        num_tokens = tensors.placement[2]
        output = self._causal_lm(
            inputs_embeds=tensors.inputs_embeds,
            position_ids=tensors.position_ids,
            past_key_values=self._cache.prefill_cache(self.write_index(tensors)),
            use_cache=True,
            logits_to_keep=num_tokens - 1,  # gives b x b logits, of which the diagonal is read
            **_deepstack(tensors.planes),
        )
        logits: Tensor = output.logits.diagonal(dim1=0, dim2=1).T
        return logits

    def write_index(self, tensors: PrefillTensors) -> Tensor:
        """Where each layer writes the prompts; see `SlotCache.prefill_index`."""
        first, slot_length, num_tokens = tensors.placement
        return self._cache.prefill_index(first, slot_length, num_tokens, tensors.inputs_embeds.shape[1])

    def forward_chunk(self, prompt: SlotInputs, start: int, end: int) -> Tensor:
        """[1, V] logits of token `end - 1` of a prompt whose tokens before `start` are in its slot."""
        inputs = prompt.inputs
        output = self._causal_lm(
            inputs_embeds=inputs.inputs_embeds[None, start:end],
            position_ids=inputs.position_ids[..., None, start:end],
            past_key_values=self._cache.chunk_cache(prompt.slot, start, end - start),
            use_cache=True,
            logits_to_keep=1,
            **_deepstack(None if inputs.planes is None else inputs.planes[:, None, start:end]),
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def _deepstack(planes: Tensor | None) -> dict[str, Tensor]:
    """Argument with the DeepStack planes of a forward pass; none for a family whose model does not know it."""
    return {} if planes is None else {"planes": planes}
