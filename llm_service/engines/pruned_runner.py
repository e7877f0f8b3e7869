"""The forward passes of a batch whose rows are pruned inside the language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm_service.engines.pruned_decoding import PrunedCache
from llm_service.engines.pruned_prefill import PrunedInputs, prefill
from llm_service.models.base import VisionLanguageModel
from llm_service.models.decoder import LayeredDecoder

__all__ = ["PrunedRunner"]


class PrunedRunner:
    """What `ModelRunner` is for rows that are not pruned, with the same methods.

    Prompts are prefilled one by one: each shrinks at its own layers, and one of several hundred tokens fills a device
    by itself. Decoding takes all rows together, whatever their methods, so that the weights are read once a token.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._decoder = LayeredDecoder(model.causal_lm)
        self._device = model.device
        self._cache = PrunedCache(self._decoder)

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        """Forgets all rows."""
        self._cache.clear()

    def prefill(self, newcomers: Sequence[PrunedInputs]) -> torch.Tensor:
        """Runs the prompts of b rows and adds them to the batch; if it fails, the batch is as it was.

        Returns:
            [b, V] float32 logits of each one's first token.
        """
        rows = [prefill(self._decoder, newcomer) for newcomer in newcomers]
        logits = self._decoder.logits(torch.stack([row.last_hidden for row in rows]))
        self._cache.append(rows)
        return logits

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Runs one token of each of the B rows. If it fails, the batch is of no use any more: `clear` it.

        Returns:
            [B, V] float32 logits of each one's next token.
        """
        embeddings = self._decoder.embed(torch.tensor(token_ids, device=self._device))
        return self._decoder.logits(self._cache.decode(embeddings))

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all rows but those with the given indices, which stay in the given order."""
        self._cache.keep(rows)
