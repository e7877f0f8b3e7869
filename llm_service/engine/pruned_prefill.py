"""The prefill of one prompt layer by layer, which can drop visual tokens and report attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from llm_service.models.base import ModelInputs
from llm_service.models.decoder import LayeredDecoder, Rotary
from llm_service.pruners.attention import attention_weights
from llm_service.pruners.base import PruningContext, PruningResult, VisualLayout
from llm_service.pruners.plan import PruningPlan

__all__ = ["AttentionProbe", "PrefilledSequence", "PrunedInputs", "prefill"]


@dataclass(frozen=True)
class AttentionProbe:
    """Request for the attention of the last prompt token in one layer.

    Attributes:
        layer: Layer index, from 0.
        report: Callback with [N], the attention to each visual token of the prompt, mean over the heads; 0 for dropped
            tokens.
    """

    layer: int
    report: Callable[[Tensor], None]


@dataclass(frozen=True)
class PrunedInputs:
    """A prompt to prefill layer by layer.

    Attributes:
        inputs: Embeddings and position ids.
        layout: Indices and grid coordinates of the visual tokens.
        plan: Pruning; None for none.
        probe: Attention to report; None for none.
    """

    inputs: ModelInputs
    layout: VisualLayout
    plan: PruningPlan | None
    probe: AttentionProbe | None = None


@dataclass(frozen=True)
class PrefilledSequence:
    """State from which decoding continues.

    Attributes:
        last_hidden: [D] state of the last prompt token after the final norm.
        cache: Keys and values [1, heads, T_k, d] of each layer k; T_k differs between layers.
        next_position_ids: [L] int64, rotary position of the next token in each layer.
        kept_per_stage: Visual tokens left after each stage, as `PruningContext.original_indices`.
    """

    last_hidden: Tensor
    cache: DynamicCache
    next_position_ids: Tensor
    kept_per_stage: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Tokens:
    """The tokens that are left.

    Attributes:
        hidden: [T, D] states.
        position_ids: [T] rotary positions.
        visual_indices: [n] indices of the visual tokens in the sequence.
        original_indices: [n] see `PruningContext.original_indices`.
    """

    hidden: Tensor
    position_ids: Tensor
    visual_indices: Tensor
    original_indices: Tensor


def prefill(decoder: LayeredDecoder, prompt: PrunedInputs) -> PrefilledSequence:
    """Runs all layers over a prompt, pruning at the inputs of those that the plan names."""
    return _Prefill(decoder, prompt).run()


class _Prefill:
    """One prefill.

    Args:
        decoder: The language model.
        prompt: The prompt, its plan and its probe.
    """

    def __init__(self, decoder: LayeredDecoder, prompt: PrunedInputs) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._num_visual = self._num_created = len(prompt.layout)
        self._cache = DynamicCache()
        self._kept_per_stage: list[Tensor] = []
        self._tokens = _Tokens(
            prompt.inputs.inputs_embeds,
            prompt.inputs.position_ids,
            prompt.layout.indices,
            torch.arange(self._num_visual, device=prompt.layout.indices.device),
        )
        self._previous_hidden = self._hidden = self._tokens.hidden
        self._update_rotary()

    def run(self) -> PrefilledSequence:
        """Runs all layers."""
        decoder, plan, probe = self._decoder, self._prompt.plan, self._prompt.probe
        keep_at_layer = {} if plan is None else {stage.layer: stage.keep for stage in plan.stages}
        next_position_ids = []
        for layer in range(decoder.num_layers):
            if plan is not None and layer in keep_at_layer:
                self._prune(plan, layer, keep_at_layer[layer])
            self._previous_hidden = self._hidden
            self._hidden = decoder.layer(layer, self._hidden[None], self._rotary, self._mask, self._cache)[0]
            next_position_ids.append(self._tokens.position_ids[-1] + 1)
            if probe is not None and layer == probe.layer:
                probe.report(self._last_token_attention(layer))
        return PrefilledSequence(
            decoder.norm(self._hidden[-1]),
            self._cache,
            torch.stack(next_position_ids),
            tuple(self._kept_per_stage),
        )

    def _update_rotary(self) -> None:
        self._rotary: Rotary = self._decoder.rotary(self._tokens.position_ids[None])
        self._mask = self._decoder.causal_mask(len(self._hidden))

    def _prune(self, plan: PruningPlan, layer: int, keep: int) -> None:
        """Prunes at the input of a layer."""
        context = PruningContext(
            hidden_states=self._hidden,
            previous_hidden_states=self._previous_hidden,
            visual_indices=self._tokens.visual_indices,
            original_indices=self._tokens.original_indices,
            previous=self._decoder.attention(layer - 1, self._previous_hidden, self._rotary, self._cache),
            upcoming=self._decoder.attention(layer, self._hidden, self._rotary),
            inputs_embeds=self._prompt.inputs.inputs_embeds,
            layout=self._prompt.layout,
        )
        result = plan.pruner.prune(context, keep)
        if result.duplicates_cache:
            layer_cache = self._cache.layers[layer - 1]
            layer_cache.update(layer_cache.keys, layer_cache.values)
        self._tokens = _apply(self._tokens, self._hidden, result, self._num_created, compact=plan.pruner.method.compact)
        self._num_created += 0 if result.merged is None else len(result.merged)
        self._kept_per_stage.append(self._tokens.original_indices)
        self._hidden = self._tokens.hidden
        self._update_rotary()

    def _last_token_attention(self, layer: int) -> Tensor:
        """[N] attention of the last prompt token in a layer that has run; 0 for dropped tokens.

        Merged tokens stand for no single visual token and are left out.
        """
        hidden, tokens = self._previous_hidden, self._tokens
        last = torch.tensor([len(hidden) - 1], device=hidden.device)
        attention = self._decoder.attention(layer, hidden, self._rotary, self._cache)
        weights = attention_weights(attention, last)[:, 0, tokens.visual_indices].mean(dim=0)
        is_original = tokens.original_indices < self._num_visual
        return weights.new_zeros(self._num_visual).index_put(
            (tokens.original_indices[is_original],), weights[is_original]
        )


def _apply(tokens: _Tokens, hidden: Tensor, result: PruningResult, num_created: int, *, compact: bool) -> _Tokens:
    """Drops the visual tokens that are not kept and inserts merged ones after the last visual token."""
    kept = tokens.visual_indices[result.kept]
    is_kept = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    is_kept[tokens.visual_indices] = False
    is_kept[kept] = True
    merged = hidden[:0] if result.merged is None else result.merged
    end = int(tokens.visual_indices[-1]) + 1
    num_before = int(is_kept[:end].sum())
    states, position_ids = hidden[is_kept], tokens.position_ids[is_kept]
    merged_range = torch.arange(len(merged), device=hidden.device)
    length = len(states) + len(merged)
    return _Tokens(
        hidden=torch.cat([states[:num_before], merged, states[num_before:]]),
        # Only compact methods merge, so merged tokens need no position of their own.
        position_ids=torch.arange(length, device=hidden.device) if compact else position_ids,
        visual_indices=torch.cat([(is_kept.cumsum(0) - 1)[kept], num_before + merged_range]),
        original_indices=torch.cat([tokens.original_indices[result.kept], num_created + merged_range]),
    )
