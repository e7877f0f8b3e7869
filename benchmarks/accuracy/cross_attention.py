"""Cross-attention of the unpruned language model, layer by layer, from the LLM service's own engine in this process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaConfig

from encoder_service.pruners.base import TowerFeatures
from gateway.tokenization.tokenizers import PromptTokenizer
from llm_service.engine.base import CrossAttention, Done, GenerationRequest
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams
from llm_service.settings import LLMSettings
from llm_service.startup import load

__all__ = ["AttentionReader"]

_DEADLINE_S: Final = 3600.0  # longer than any run


class AttentionReader:
    """The engine of a LLaVA; a context manager that starts and stops it.

    Args:
        checkpoint: Directory of the LLaVA.

    Attributes:
        num_layers: Layers of its language model.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._engine = load(LLMSettings(model=str(checkpoint), max_batch_delay_ms=0)).engine
        self._prompts = PromptTokenizer(checkpoint)
        self.num_layers: int = LlavaConfig.from_pretrained(checkpoint).text_config.num_hidden_layers

    def __enter__(self) -> Self:
        self._engine.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.stop()

    def read(self, vision: TowerFeatures, question: str) -> list[Tensor]:
        """[N] attention of the last prompt token to each patch, mean over the heads, for each layer."""
        return asyncio.run(self._read(vision, question))

    async def _read(self, vision: TowerFeatures, question: str) -> list[Tensor]:
        ids = np.array(self._prompts.encode(question, num_images=1), dtype=np.int64)
        features = vision.hidden.float().numpy()
        tokens = VisualTokens(features, np.arange(len(features)), (1, *vision.grid))

        async def read_layer(layer: int) -> Tensor:
            request = GenerationRequest(
                Prompt(ids, (tokens,)),
                SamplingParams(1),
                deadline=time.monotonic() + _DEADLINE_S,
                cross_attention=CrossAttention(layer),
            )
            (done,) = [event async for event in self._engine.submit(request) if isinstance(event, Done)]
            return torch.tensor(done.cross_attention)

        return await asyncio.gather(*(read_layer(layer) for layer in range(self.num_layers)))
