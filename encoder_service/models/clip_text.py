"""CLIP's text tower: every token of a question in the joint space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModel

from encoder_service.pruners.base import TextFeatures

__all__ = ["ClipTextTower", "windows"]


def windows(ids: Sequence[int], max_positions: int) -> list[list[int]]:
    """BOS, words, EOS as windows that fit the tower: at most `max_positions - 2` words each, with BOS and EOS anew."""
    if len(ids) <= max_positions:
        return [list(ids)]
    bos, *words, eos = ids
    step = max_positions - 2
    return [[bos, *words[start : start + step], eos] for start in range(0, len(words), step)]


class ClipTextTower(nn.Module):
    """Token rows after the final norm and `text_projection`.

    Args:
        text_model: transformers' own tower, with sdpa.
        text_projection: [D, Ct] to the joint space, no bias.
        max_rows: Most windows in one forward.
    """

    def __init__(self, text_model: CLIPTextModel, text_projection: nn.Linear, *, max_rows: int = 32) -> None:
        super().__init__()
        self.text_model = text_model
        self.text_projection = text_projection
        self.max_positions = int(text_model.config.max_position_embeddings)
        self._max_rows = max_rows

    @torch.inference_mode()
    def forward(self, texts: Sequence[Sequence[int]], *, eos_attention: bool = False) -> list[TextFeatures]:
        """Features of texts of different lengths (BOS, words, EOS), each as if it were alone."""
        split = [windows(text, self.max_positions) for text in texts]
        rows = [row for parts in split for row in parts]
        tokens: list[Tensor] = []
        attention: list[Tensor | None] = []
        for start in range(0, len(rows), self._max_rows):
            chunk = rows[start : start + self._max_rows]
            projected, weights = self._forward_rows(chunk, eos_attention)
            tokens += [projected[i, : len(row)] for i, row in enumerate(chunk)]
            attention += [None if weights is None else weights[i, : len(row)] for i, row in enumerate(chunk)]
        features, position = [], 0
        for parts in split:
            here = slice(position, position + len(parts))
            features.append(_concatenate(tokens[here], attention[here]))
            position += len(parts)
        return features

    def _forward_rows(self, rows: Sequence[Sequence[int]], eos_attention: bool) -> tuple[Tensor, Tensor | None]:
        """[R, S, D] of rows padded at the right, and the attention of each row's EOS, [R, S].

        Attention is causal, so what comes after EOS is never seen: no padding mask is needed, and none is built.
        """
        model = self.text_model
        device = self.text_projection.weight.device
        length = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=device)
        hidden = model.embeddings(input_ids=ids)
        before = hidden
        for layer in model.encoder.layers:
            before = hidden
            hidden = layer(hidden, None, is_causal=True)
        weights = None
        if eos_attention:
            weights = self._eos_attention(before, torch.tensor([len(row) - 1 for row in rows], device=device))
        return self.text_projection(model.final_layer_norm(hidden)), weights

    def _eos_attention(self, hidden: Tensor, eos: Tensor) -> Tensor:
        """Attention of the row at `eos` [R] in the last layer, mean over the heads: [R, S, C] to [R, S]."""
        layer = self.text_model.encoder.layers[-1]
        attn, normed = layer.self_attn, layer.layer_norm1(hidden)
        row = normed[torch.arange(len(eos), device=eos.device), eos]
        query = attn.q_proj(row).unflatten(-1, (-1, attn.head_dim))  # [R, H, d]
        key = attn.k_proj(normed).unflatten(-1, (-1, attn.head_dim))  # [R, S, H, d]
        scores = torch.einsum("rhd,rshd->rhs", query, key) * attn.head_dim**-0.5
        later = torch.arange(hidden.shape[1], device=eos.device)[None] > eos[:, None]
        scores = scores.masked_fill(later[:, None], -torch.inf)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights: Tensor = scores.softmax(dim=-1).mean(dim=1)
        return weights


def _concatenate(tokens: list[Tensor], attention: list[Tensor | None]) -> TextFeatures:
    """One text out of the rows of its windows."""
    is_word = torch.cat([torch.ones(len(rows), dtype=torch.bool, device=rows.device) for rows in tokens])
    position = 0
    for rows in tokens:
        is_word[position] = is_word[position + len(rows) - 1] = False
        position += len(rows)
    known = [weights for weights in attention if weights is not None]
    return TextFeatures(
        tokens=torch.cat(tokens),
        eos=torch.stack([rows[-1] for rows in tokens]),
        is_word=is_word,
        eos_attention=torch.cat(known) if known else None,
    )
