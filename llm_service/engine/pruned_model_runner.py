"""Forward passes of a batch whose prompts are pruned inside the language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm_service.engine.pruned_decoding import PrunedCache
from llm_service.engine.pruned_prefill import PrunedInputs, prefill
from llm_service.models.base import VisionLanguageModel
from llm_service.models.decoder import LayeredDecoder

__all__ = ["PrunedModelRunner"]


class PrunedModelRunner:
    """Counterpart of `ModelRunner`, with the same methods, for sequences that run layer by layer.

    Prompts are prefilled one by one, since each shrinks at its own layers; a prompt of several hundred tokens fills a
    device by itself. Decoding runs all sequences together, whatever their pruning methods, so that the weights are read
    once for each step.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._decoder = LayeredDecoder(model.causal_lm)
        self._cache = PrunedCache(self._decoder)

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        """Removes all sequences."""
        self._cache.clear()

    def prefill(self, prompts: Sequence[PrunedInputs]) -> torch.Tensor:
        """Runs b prompts and appends them to the batch. If it fails, the batch is unchanged.

        Returns:
            [b, V] float32 logits of the first tokens.
        """
        sequences = [prefill(self._decoder, prompt) for prompt in prompts]
        logits = self._decoder.logits(torch.stack([sequence.last_hidden for sequence in sequences]))
        self._cache.append(sequences)
        return logits

    def decode(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Runs one token of each of the B sequences. If it fails, the batch must be cleared with `clear`.

        Args:
            token_ids: [B] int64 ids of their last tokens, on the device of the model.

        Returns:
            [B, V] float32 logits of the next tokens.
        """
        embeddings = self._decoder.embed(token_ids)
        return self._decoder.logits(self._cache.decode(embeddings))

    def keep(self, indices: Sequence[int]) -> None:
        """Removes all sequences but those with the given indices, which stay in the given order."""
        self._cache.keep(indices)
