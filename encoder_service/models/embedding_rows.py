"""Text features from the input embeddings of a language model, for families without a text tower.

Such a family compares its patches with the question's tokens as the language model embeds them. The embedding table
(about 1.1 GB of Qwen2.5-VL-7B) stays in the checkpoint: a question needs a few rows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from encoder_service.pruners.base import TextFeatures, TextSpace
from fovea.modeling.errors import CheckpointError
from fovea.modeling.stored_rows import open_rows
from fovea.modeling.transfers import to_device

__all__ = ["EmbeddingRows"]

# The hub's layout of Qwen2.5-VL, that of transformers 5 in memory (and of Qwen3-VL on the hub), and that of LLaVA.
_NAMES: Final = (
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
)


class EmbeddingRows:
    """Input embeddings of a language model, read from its checkpoint row by row.

    Args:
        checkpoint: Directory of the checkpoint.
        width: Channels D of the vision tower's visual tokens, which the embeddings must have as well.
        device: Device of the text features.
        dtype: Dtype of the text features.

    Attributes:
        vocab_size: Number of rows V; token ids are below it.

    Raises:
        CheckpointError: The table is missing or not D wide, or its file is broken.
    """

    def __init__(self, checkpoint: Path, width: int, device: torch.device, dtype: torch.dtype) -> None:
        rows = open_rows(checkpoint, _NAMES)
        if rows is None:
            raise CheckpointError("the checkpoint holds no embed_tokens.weight of the language model")
        if rows.shape[1:] != (width,):
            raise CheckpointError(
                f"the language model embeds words in {rows.shape[-1]} channels, its vision tower makes {width}"
            )
        self.vocab_size = rows.shape[0]
        self._rows = rows
        self._device = device
        self._dtype = dtype

    @torch.inference_mode()
    def text_features(self, texts: Sequence[Sequence[int]]) -> TextFeatures:
        """Features of questions, as a batch in which each is padded. No EOS represents a text; its mean does.

        Args:
            texts: Token ids of each question, at least one, below `vocab_size`.

        Raises:
            OSError: The checkpoint's file has become shorter, or cannot be read any more.
        """
        length = max(map(len, texts))
        ids = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts])
        is_token = torch.tensor([[i < len(text) for i in range(length)] for text in texts])
        # Equal tokens of all texts are read, and copied to the device, once.
        distinct, row_of_token = ids.unique(return_inverse=True)
        rows = to_device(self._rows.read(distinct), self._device).to(self._dtype)
        tokens = rows[to_device(row_of_token, self._device)]
        is_token = to_device(is_token, self._device)
        total = tokens.masked_fill(~is_token[..., None], 0).sum(dim=1, keepdim=True, dtype=torch.float32)
        mean = total / is_token.sum(dim=1)[:, None, None]
        return TextFeatures(
            tokens, mean.to(tokens.dtype), is_token, is_token=is_token, space=TextSpace.INPUT_EMBEDDINGS
        )
