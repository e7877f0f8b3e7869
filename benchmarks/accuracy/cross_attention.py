"""What the language model attends to, layer by layer and unpruned: the LLM service's own core in this process."""

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
from gateway.tokenizers import PromptTokenizer
from llm_service.engines.base import CrossAttention, Done, GenerationRequest
from llm_service.prompts import Prompt, VisualTokens
from llm_service.sampling import SamplingParams
from llm_service.settings import LLMSettings
from llm_service.startup import load

__all__ = ["AttentionReader"]

_NEVER_S: Final = 3600.0


class AttentionReader:
    """Use it as a context manager.

    Args:
        checkpoint: Of a LLaVA.

    Attributes:
        num_layers: Of its language model.
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
        """For each layer [N]: attention of the last prompt token to each patch, mean over the heads."""
        return asyncio.run(self._read(vision, question))

    async def _read(self, vision: TowerFeatures, question: str) -> list[Tensor]:
        ids = np.array(self._prompts.encode(question, num_images=1), dtype=np.int64)
        features = vision.hidden.float().numpy()
        tokens = VisualTokens(features, np.arange(len(features)), (1, *vision.grid))

        async def one(layer: int) -> Tensor:
            request = GenerationRequest(
                Prompt(ids, (tokens,)),
                SamplingParams(1),
                deadline=time.monotonic() + _NEVER_S,
                cross_attention=CrossAttention(layer),
            )
            (done,) = [event async for event in self._engine.submit(request) if isinstance(event, Done)]
            return torch.tensor(done.cross_attention)

        return await asyncio.gather(*(one(layer) for layer in range(self.num_layers)))
