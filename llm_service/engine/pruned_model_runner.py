"""Forward passes of a batch whose prompts are pruned inside the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llm_service.engine.pruned_decoding import PrunedDecoder
from llm_service.engine.pruned_prefill import PrefilledSequence, PrunedInputs, prefill
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slots import Slot
from llm_service.models.base import VisionLanguageModel
from llm_service.models.decoder import LayeredDecoder

__all__ = ["PrunedModelRunner", "PrunedSlotInputs"]


@dataclass(frozen=True)
class PrunedSlotInputs:
    """A prompt to prefill layer by layer, and the slot that its keys and values are written to.

    Attributes:
        prompt: Embeddings, layout, plan and probe.
        slot: A slot of no other sequence.
        num_decoded: Most tokens that are decoded after the first one.
    """

    prompt: PrunedInputs
    slot: Slot
    num_decoded: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.prompt.inputs.length


class PrunedModelRunner:
    """Counterpart of `ModelRunner`, with the same methods, for sequences that run layer by layer.

    Prompts are prefilled one by one, since each shrinks at its own layers; a prompt of several hundred tokens fills a
    device by itself. Decoding runs all sequences together, whatever their pruning methods, so that the weights are read
    once for each step and class of slots.

    Args:
        model: Language model.
        cache: Keys and values of all slots.
    """

    def __init__(self, model: VisionLanguageModel, cache: SlotCache) -> None:
        self._layers = LayeredDecoder(model.causal_lm)
        self._decoder = PrunedDecoder(self._layers, cache)
        self._cache = cache

    def __len__(self) -> int:
        return len(self._decoder)

    def clear(self) -> None:
        """Removes all sequences."""
        self._decoder.clear()

    def prefill(self, prompts: Sequence[PrunedSlotInputs]) -> torch.Tensor:
        """Runs b prompts and appends them to the batch. If it fails, the batch is unchanged.

        Returns:
            [b, V] float32 logits of the first tokens.
        """
        sequences = [self._prefill(inputs) for inputs in prompts]
        logits = self._layers.logits(torch.stack([sequence.last_hidden for sequence in sequences]))
        self._decoder.append(sequences, [inputs.slot for inputs in prompts])
        return logits

    def _prefill(self, inputs: PrunedSlotInputs) -> PrefilledSequence:
        sequence = prefill(self._layers, inputs.prompt)
        num_positions = max(keys.shape[2] for keys, *_ in sequence.cache) + inputs.num_decoded
        slot_length = self._cache.classes[inputs.slot.class_index].length
        if num_positions > slot_length:  # else decoding would write into the next slot
            raise ValueError(f"a pruner left {num_positions} positions for a slot of {slot_length}")
        return sequence

    def decode(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Runs one token of each of the B sequences. If it fails, the batch must be cleared with `clear`.

        Args:
            token_ids: [B] int64 ids of their last tokens, on the device of the model.

        Returns:
            [B, V] float32 logits of the next tokens.
        """
        return self._layers.logits(self._decoder.decode(self._layers.embed(token_ids)))

    def keep(self, indices: Sequence[int]) -> None:
        """Removes all sequences but those with the given indices, which stay in the given order."""
        self._decoder.keep(indices)
