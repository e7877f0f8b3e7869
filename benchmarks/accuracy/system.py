"""The engines of the three services in one process, without sockets: the fastest way to answer thousands of questions.

Nothing is reimplemented: gateway.tokenization.tokenizers writes the ids, encoder_service.engine.engine encodes and
prunes, llm_service.engine decodes. Visual tokens pass from one to the other as float32, unless a caller of `encode` and
`decode` changes them in between. `tests/e2e` shows that the services give the same answers over gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encoder_service import models
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner
from fovea.budget import Budget
from gateway.tokenization.tokenizers import PromptTokenizer, TextTowerTokenizer
from llm_service.engine.base import Delta, Done, GenerationRequest, PruningParams
from llm_service.prompts import Prompt, VisualTokens
from llm_service.pruners import PRUNERS as LLM_PRUNERS
from llm_service.pruners.plan import bind
from llm_service.sampling import SamplingParams
from llm_service.settings import LLMSettings
from llm_service.startup import load as load_language_model

__all__ = ["Answer", "ImageQuestion", "InProcessSystem", "LlmMethod", "Method"]

_CHUNK = 256  # questions in flight: enough to keep the language model's batch full
_DEADLINE_S = 3600.0  # longer than any run


@dataclass(frozen=True)
class ImageQuestion:
    """A question about an image file."""

    image: bytes
    question: str


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: Text of the answer, without blanks at the ends.
        visual_tokens: Visual tokens that a layer attended over in the prefill, mean over the layers.
    """

    text: str
    visual_tokens: float


@dataclass(frozen=True)
class LlmMethod:
    """A pruner inside the language model; `keep_ratio` is a share of the visual tokens that the encoder sent."""

    pruner: str
    keep_ratio: float
    params: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A pruner with its budget: `keep_ratio` 1 keeps everything, but never more than `max_tokens`.

    `llm` prunes further inside the language model.
    """

    pruner: str
    keep_ratio: float = 1.0
    params: Mapping[str, object] = field(default_factory=dict)
    llm: LlmMethod | None = None
    max_tokens: int | None = None


class InProcessSystem:
    """Encoder, LLM and tokenizers of one checkpoint, in float32.

    Args:
        llava: Checkpoint directory.
        clip: Checkpoint directory of its text tower.
        max_batch_size: Largest batch, in the encoder and in the language model.
        reduces_jpeg: Whether JPEG images are decoded at a reduced scale where that is enough.
    """

    def __init__(self, llava: Path, clip: Path, *, max_batch_size: int = 64, reduces_jpeg: bool = False) -> None:
        self._encoder = EncoderEngine(
            models.load(str(llava), LoadOptions(text_tower=str(clip), reduces_jpeg=reduces_jpeg)),
            FeatureCache(2**31),
            max_batch_size=max_batch_size,
            max_image_bytes=2**24,
            max_image_pixels=50_000_000,
        )
        self._llm = load_language_model(
            LLMSettings(
                model=str(llava), max_batch_size=max_batch_size, max_queue_size=2 * _CHUNK, max_queue_time_s=86_400
            )
        )
        self._llm.engine.start()
        self._prompts, self._texts = PromptTokenizer(llava), TextTowerTokenizer(clip)
        self._max_batch_size = max_batch_size

    def answers(self, asked: Sequence[ImageQuestion], method: Method, *, max_tokens: int = 96) -> list[str]:
        """Greedy answers, in the order of the questions.

        Raises:
            ServiceError: The services refuse a question.
        """
        return [answer.text for answer in self.decode(asked, self.encode(asked, method), method.llm, max_tokens)]

    @property
    def visual_hidden_size(self) -> int:
        """Channels of a visual token."""
        return self._encoder.model.hidden_size

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches; None where images differ."""
        return self._encoder.model.grid

    @property
    def encoder_model(self) -> EncoderModel:
        """Towers and image processor of the encoder."""
        return self._encoder.model

    def close(self) -> None:
        """Ends the language model's thread."""
        self._llm.engine.stop()

    def encode(self, asked: Sequence[ImageQuestion], method: Method) -> list[EncodedMedia]:
        """Visual tokens that the encoder sends for each question; `method.llm` has no effect.

        Raises:
            ServiceError: The encoder refuses a question.
        """
        budget = Budget.ratio(method.keep_ratio).capped(method.max_tokens)
        return self.encode_pruned(asked, PRUNERS[method.pruner].bind(method.params), budget)

    def encode_pruned(self, asked: Sequence[ImageQuestion], pruner: BoundPruner, budget: Budget) -> list[EncodedMedia]:
        """Visual tokens for each question, with a pruner that need not be one of the service's.

        Raises:
            ServiceError: The encoder refuses a question.
        """
        encoded: list[EncodedMedia] = []
        for start in range(0, len(asked), self._max_batch_size):
            batch = [
                self._encoder.prepare(
                    EncodeRequest(
                        (question.image,),
                        tuple(self._texts.encode(question.question)),
                        pruner,
                        budget,
                    )
                )
                for question in asked[start : start + self._max_batch_size]
            ]
            for outcome in self._encoder.run(batch):
                if isinstance(outcome, Exception):
                    raise outcome
                encoded.append(outcome[0])
        return encoded

    def decode(
        self,
        asked: Sequence[ImageQuestion],
        encoded: Sequence[EncodedMedia],
        llm: LlmMethod | None,
        max_tokens: int = 96,
    ) -> list[Answer]:
        """Greedy answers from the visual tokens of the encoder, in the order of the questions.

        Raises:
            InvalidRequest: `llm` cannot reach its budget.
        """
        pruning = None
        if llm is not None:
            pruning = PruningParams(bind(LLM_PRUNERS[llm.pruner], llm.params), Budget.ratio(llm.keep_ratio))
        answers: list[Answer] = []
        for start in range(0, len(asked), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            answers += asyncio.run(self._generate(asked[chunk], encoded[chunk], pruning, max_tokens))
        return answers

    async def _generate(
        self,
        asked: Sequence[ImageQuestion],
        encoded: Sequence[EncodedMedia],
        pruning: PruningParams | None,
        max_tokens: int,
    ) -> list[Answer]:
        async def answer(question: str, image: EncodedMedia) -> Answer:
            ids = np.array(self._prompts.encode(question, num_images=1), dtype=np.int64)
            # Copies, as a message would have: arrays of the encoder cannot be written.
            features, positions = image.features.copy(), image.positions.copy()
            tokens = VisualTokens(features, positions, (1, image.layout.rows, image.layout.columns))
            request = GenerationRequest(
                Prompt(ids, (tokens,)),
                SamplingParams(max_tokens),
                deadline=time.monotonic() + _DEADLINE_S,
                pruning=pruning,
            )
            text, by_layer = "", np.zeros(0)
            async for event in self._llm.engine.submit(request):
                match event:
                    case Delta():
                        text += event.text
                    case Done():
                        by_layer = np.array(event.visual_tokens_by_layer)
            return Answer(text.strip(), float(by_layer.mean()) if len(by_layer) else float(len(image.features)))

        return await asyncio.gather(*(answer(item.question, image) for item, image in zip(asked, encoded, strict=True)))
