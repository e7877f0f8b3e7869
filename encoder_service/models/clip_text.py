"""CLIP's text tower: every token of a question in the joint space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModel

from encoder_service.models.clip_vision import Replay
from encoder_service.pruners.base import TextFeatures
from fovea.modeling.transfers import to_device

__all__ = ["ClipTextTower", "windows"]


def windows(ids: Sequence[int], max_positions: int) -> list[list[int]]:
    """Windows of a text (BOS, words, EOS) that fit the tower: BOS, at most `max_positions - 2` words, EOS."""
    if len(ids) <= max_positions:
        return [list(ids)]
    bos, *words, eos = ids
    step = max_positions - 2
    return [[bos, *words[start : start + step], eos] for start in range(0, len(words), step)]


class ClipTextTower(nn.Module):
    """Token embeddings after the final norm and `text_projection`.

    Args:
        text_model: transformers' own tower, with sdpa.
        text_projection: [D, Ct] to the joint space, no bias.
        max_windows: Largest number of windows in one forward.
    """

    def __init__(self, text_model: CLIPTextModel, text_projection: nn.Linear, *, max_windows: int = 32) -> None:
        super().__init__()
        self.text_model = text_model
        self.text_projection = text_projection
        self.max_positions = int(text_model.config.max_position_embeddings)
        self._max_windows = max_windows
        self.graphs: dict[int, Replay] = {}
        """Replays of `compute`, by the length to which windows are padded."""

    @torch.inference_mode()
    def forward(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> TextFeatures:
        """Features of texts of different lengths (BOS, words, EOS) as one padded batch."""
        windows_by_text = [windows(text, self.max_positions) for text in texts]
        all_windows = [window for text_windows in windows_by_text for window in text_windows]
        length = max(map(len, all_windows))
        parts = [
            self._forward_windows(all_windows[start : start + self._max_windows], length, eos_attention)
            for start in range(0, len(all_windows), self._max_windows)
        ]
        tokens, eos = (
            torch.cat(tensors) if len(tensors) > 1 else tensors[0]
            for tensors in ([part.tokens for part in parts], [part.eos for part in parts])
        )
        known = [part.eos_attention for part in parts if part.eos_attention is not None]
        attention = torch.cat(known) if known else None
        return _joined(windows_by_text, length, tokens, eos, attention)

    def _forward_windows(self, batch: Sequence[Sequence[int]], length: int, eos_attention: bool) -> _Windows:
        """Features of W windows padded at the right.

        Attention is causal, so no token before EOS attends to the padding after it: no padding mask is needed.
        """
        device = self.text_projection.weight.device
        padded = length
        if not eos_attention:
            padded = min((size for size in self.graphs if size >= length), default=length)
        ids = to_device(torch.tensor([[*window, *[0] * (padded - len(window))] for window in batch]), device)
        last = to_device(torch.tensor([len(window) - 1 for window in batch]), device)
        if eos_attention:
            hidden, before = self._layers(ids)
            return _Windows(*self._projected(hidden, last), self._eos_attention(before, last))
        replayed = self.graphs[padded](ids, last) if padded in self.graphs else None
        tokens, eos = self.compute(ids, last) if replayed is None else replayed
        return _Windows(tokens if padded == length else tokens[:, :length], eos, None)

    def compute(self, ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [W, L, D] of windows of ids [W, L], and those at `last` [W], [W, D]; without a replay, and a read."""
        return self._projected(self._layers(ids)[0], last)

    def _layers(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Output and input of the last layer, [W, L, C]."""
        before = hidden = self.text_model.embeddings(input_ids=ids)
        for layer in self.text_model.encoder.layers:
            before = hidden
            hidden = layer(hidden, None, is_causal=True)
        return hidden, before

    def _projected(self, hidden: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.text_projection(self.text_model.final_layer_norm(hidden))
        return tokens, tokens[torch.arange(len(last), device=last.device), last]

    def _eos_attention(self, hidden: Tensor, eos: Tensor) -> Tensor:
        """Attention of the token at `eos` [W] in the last layer, mean over the heads: [W, S, C] to [W, S]."""
        layer = self.text_model.encoder.layers[-1]
        attn, normed = layer.self_attn, layer.layer_norm1(hidden)
        eos_token = normed[torch.arange(len(eos), device=eos.device), eos]
        query = attn.q_proj(eos_token).unflatten(-1, (-1, attn.head_dim))  # [W, H, d]
        key = attn.k_proj(normed).unflatten(-1, (-1, attn.head_dim))  # [W, S, H, d]
        scores = torch.einsum("whd,wshd->whs", query, key) * attn.head_dim**-0.5
        later = torch.arange(hidden.shape[1], device=eos.device)[None] > eos[:, None]
        scores = scores.masked_fill(later[:, None], -torch.inf)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights: Tensor = scores.softmax(dim=-1).mean(dim=1)
        return weights


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows of texts: tokens [W, L, D], EOS embeddings [W, D], and attention of each window's EOS [W, L] or None."""

    tokens: Tensor
    eos: Tensor
    eos_attention: Tensor | None


def _joined(
    windows_by_text: Sequence[Sequence[Sequence[int]]],
    length: int,
    tokens: Tensor,
    eos: Tensor,
    eos_attention: Tensor | None,
) -> TextFeatures:
    """Features of texts from those of all windows, each padded to `length`; texts with fewer windows are padded."""
    counts = np.array([len(text_windows) for text_windows in windows_by_text])
    most = int(counts.max())
    lengths = np.zeros((len(counts), most), np.int64)
    for i, text_windows in enumerate(windows_by_text):
        lengths[i, : len(text_windows)] = [len(window) for window in text_windows]
    column = np.arange(length)
    is_token = column < lengths[..., None]
    is_word = (column > 0) & (column < lengths[..., None] - 1)
    if most > 1:
        first = np.cumsum(counts) - counts
        index = np.where(lengths > 0, first[:, None] + np.arange(most), 0)
        window = to_device(torch.from_numpy(index), tokens.device)
        tokens, eos = tokens[window].flatten(1, 2), eos[window]
        eos_attention = None if eos_attention is None else eos_attention[window].flatten(1, 2)
    else:
        eos = eos[:, None]

    def mask(values: npt.NDArray[np.bool_]) -> Tensor:
        return to_device(torch.from_numpy(values.reshape(len(counts), -1)), tokens.device)

    return TextFeatures(
        tokens, eos, mask(is_word), eos_attention, mask(is_token), mask(lengths > 0) if most > 1 else None
    )
