"""CLIP's text tower: every token of a question in the joint space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModel

from encoder_service.pruners.base import TextFeatures

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

    @torch.inference_mode()
    def forward(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> list[TextFeatures]:
        """Features of texts of different lengths (BOS, words, EOS), independent of the other texts."""
        windows_by_text = [windows(text, self.max_positions) for text in texts]
        all_windows = [window for text_windows in windows_by_text for window in text_windows]
        tokens: list[Tensor] = []
        attention: list[Tensor | None] = []
        for start in range(0, len(all_windows), self._max_windows):
            chunk = all_windows[start : start + self._max_windows]
            projected, weights = self._forward_windows(chunk, eos_attention)
            tokens += [projected[i, : len(window)] for i, window in enumerate(chunk)]
            attention += [None if weights is None else weights[i, : len(window)] for i, window in enumerate(chunk)]
        features, first = [], 0
        for text_windows in windows_by_text:
            of_text = slice(first, first + len(text_windows))
            features.append(_concatenate(tokens[of_text], attention[of_text]))
            first += len(text_windows)
        return features

    def _forward_windows(self, batch: Sequence[Sequence[int]], eos_attention: bool) -> tuple[Tensor, Tensor | None]:
        """[W, S, D] embeddings of W windows padded at the right, and the attention of each window's EOS, [W, S].

        Attention is causal, so no token before EOS attends to the padding after it: no padding mask is needed.
        """
        model = self.text_model
        device = self.text_projection.weight.device
        length = max(len(window) for window in batch)
        ids = torch.tensor([[*window, *[0] * (length - len(window))] for window in batch], device=device)
        hidden = model.embeddings(input_ids=ids)
        before = hidden
        for layer in model.encoder.layers:
            before = hidden
            hidden = layer(hidden, None, is_causal=True)
        weights = None
        if eos_attention:
            weights = self._eos_attention(before, torch.tensor([len(window) - 1 for window in batch], device=device))
        return self.text_projection(model.final_layer_norm(hidden)), weights

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


def _concatenate(tokens: list[Tensor], attention: list[Tensor | None]) -> TextFeatures:
    """Features of one text from the tokens [S, D] of its windows."""
    is_word = torch.cat([torch.ones(len(window), dtype=torch.bool, device=window.device) for window in tokens])
    first = 0
    for window in tokens:
        is_word[first] = is_word[first + len(window) - 1] = False
        first += len(window)
    known = [weights for weights in attention if weights is not None]
    return TextFeatures(
        tokens=torch.cat(tokens),
        eos=torch.stack([window[-1] for window in tokens]),
        is_word=is_word,
        eos_attention=torch.cat(known) if known else None,
    )
