"""The prefill of one prompt, layer by layer: its visual tokens may grow fewer, its attention may be looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from llm_service.models.base import ModelInputs
from llm_service.models.decoder import LayeredDecoder
from llm_service.pruners.base import Choice, Moment, VisualLayout
from llm_service.pruners.plan import PruningPlan
from llm_service.pruners.selection import attention_rows

__all__ = ["Observation", "PrefilledRow", "PrunedInputs", "prefill"]


@dataclass(frozen=True)
class Observation:
    """Who wants to know what the last prompt token attends to.

    Attributes:
        layer: In which layer.
        tell: Takes [N], the attention to each visual token of the prompt, mean over the heads; 0 where one is gone.
    """

    layer: int
    tell: Callable[[Tensor], None]


@dataclass(frozen=True)
class PrunedInputs:
    """A prompt, where its visual tokens are, what happens to them (None: nothing), and who looks on."""

    inputs: ModelInputs
    layout: VisualLayout
    plan: PruningPlan | None
    observation: Observation | None = None


@dataclass(frozen=True)
class PrefilledRow:
    """What decoding goes on from.

    Attributes:
        last_hidden: [D], final-norm state of the last prompt token.
        cache: Keys and values [1, heads, T_k, d] of each layer k, of different lengths.
        next_positions: [L] int64, rotary position of the next token in each layer.
        survivors: For each prune the visual tokens that were left, as `Moment.origin`.
    """

    last_hidden: Tensor
    cache: DynamicCache
    next_positions: Tensor
    survivors: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Sequence:
    """The tokens that are alive: [T, D] states, [T] positions, places and origins [n] of the visual ones."""

    hidden: Tensor
    positions: Tensor
    visual: Tensor
    origin: Tensor


def prefill(decoder: LayeredDecoder, prompt: PrunedInputs) -> PrefilledRow:
    """Runs layer after layer, pruning at the inputs of those that the plan names."""
    inputs, layout, plan, observation = prompt.inputs, prompt.layout, prompt.plan, prompt.observation
    keeps = {} if plan is None else {stage.layer: stage.keep for stage in plan.stages}
    alive = _Sequence(
        inputs.inputs_embeds,
        inputs.position_ids,
        layout.places,
        torch.arange(len(layout), device=layout.places.device),
    )
    rotary, mask = decoder.rotary(alive.positions[None]), decoder.causal_mask(len(alive.hidden))
    cache, next_positions, survivors, num_created = DynamicCache(), [], [], len(layout)
    before, hidden = alive.hidden, alive.hidden
    for index in range(decoder.num_layers):
        if plan is not None and index in keeps:
            moment = Moment(
                hidden=hidden,
                previous_hidden=before,
                visual=alive.visual,
                origin=alive.origin,
                previous=decoder.view(index - 1, before, rotary, cache),
                upcoming=decoder.view(index, hidden, rotary),
                prompt=inputs.inputs_embeds,
                layout=layout,
            )
            choice = plan.pruner.prune(moment, keeps[index])
            if choice.doubles_cache:
                done = cache.layers[index - 1]
                done.update(done.keys, done.values)
            alive = _shorten(alive, hidden, choice, num_created, compact=plan.pruner.method.compact)
            num_created += 0 if choice.merged is None else len(choice.merged)
            survivors.append(alive.origin)
            hidden = alive.hidden
            rotary, mask = decoder.rotary(alive.positions[None]), decoder.causal_mask(len(hidden))
        before = hidden
        hidden = decoder.layer(index, hidden[None], rotary, mask, cache)[0]
        next_positions.append(alive.positions[-1] + 1)
        if observation is not None and index == observation.layer:
            last = torch.tensor([len(before) - 1], device=before.device)
            row = attention_rows(decoder.view(index, before, rotary, cache), last)[:, 0, alive.visual].mean(dim=0)
            observation.tell(_by_origin(row, alive.origin, len(layout)))
    return PrefilledRow(decoder.norm(hidden[-1]), cache, torch.stack(next_positions), tuple(survivors))


def _by_origin(values: Tensor, origin: Tensor, num_visual: int) -> Tensor:
    """[N] of values [n] of the tokens that are alive; merged ones stand for no single token and are left out."""
    original = origin < num_visual
    return values.new_zeros(num_visual).index_put((origin[original],), values[original])


def _shorten(alive: _Sequence, hidden: Tensor, choice: Choice, num_created: int, *, compact: bool) -> _Sequence:
    """Drops what was not chosen and puts merged tokens behind the last place that a visual token had."""
    kept = alive.visual[choice.kept]
    staying = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    staying[alive.visual] = False
    staying[kept] = True
    merged = hidden[:0] if choice.merged is None else choice.merged
    end = int(alive.visual[-1]) + 1
    num_before = int(staying[:end].sum())
    states, positions = hidden[staying], alive.positions[staying]
    first_merged = torch.arange(len(merged), device=hidden.device)
    length = len(states) + len(merged)
    return _Sequence(
        hidden=torch.cat([states[:num_before], merged, states[num_before:]]),
        # Merged tokens exist in compact methods alone: they never had a position of their own.
        positions=torch.arange(length, device=hidden.device) if compact else positions,
        visual=torch.cat([(staying.cumsum(0) - 1)[kept], num_before + first_merged]),
        origin=torch.cat([alive.origin[choice.kept], num_created + first_merged]),
    )
