"""Prompts for a tiny Qwen2.5-VL, and the answers of the unsplit model of transformers, pruned and unpruned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

START, VISION, VISION_END, IMAGE, VIDEO = 1, 3, 4, 6, 7
ENDS = (0, 2)
NEW_TOKENS = 32


@dataclass
class Visual:
    """An image or video: the grid of its visual tokens, and the seconds of one temporal step."""

    frames: int
    rows: int
    columns: int
    seconds: float | None = None

    @property
    def grid(self):
        return self.frames, self.rows, self.columns

    @property
    def token(self):
        return IMAGE if self.seconds is None else VIDEO

    def patches(self, seed):
        shape = (4 * math.prod(self.grid), 1176)
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


PROMPTS = [
    ([START, 20, VISION, IMAGE, VISION_END, 60, 61, 62], [Visual(1, 6, 9)]),
    ([VISION, IMAGE, VISION_END, 70, VISION, IMAGE, VISION_END, 80], [Visual(1, 2, 11), Visual(1, 5, 3)]),
    ([START, VISION, VIDEO, VISION_END, 90, 91], [Visual(3, 2, 4, 1.0)]),
    # A video so slow that its temporal positions exceed those of rows and columns.
    ([VISION, VIDEO, VISION_END, 33], [Visual(4, 3, 2, 7.3)]),
    (
        [VISION, VIDEO, VISION_END, 40, VISION, IMAGE, VISION_END, 41, VISION, VIDEO, VISION_END, 42],
        [Visual(2, 2, 2, 1 / 12), Visual(1, 4, 4), Visual(5, 2, 3, 0.7)],
    ),
    ([START, 100, 101, 102], []),
]


def inputs_of(ids, visuals):
    """Inputs of the unsplit model from the processor of transformers, without the patches."""
    waiting = iter(visuals)
    expanded = [i for token in ids for i in ([token] * _count(token, waiting))]
    images = [visual for visual in visuals if visual.token == IMAGE]
    videos = [visual for visual in visuals if visual.token == VIDEO]
    inputs = {
        "input_ids": torch.tensor([expanded]),
        "attention_mask": torch.ones(1, len(expanded), dtype=torch.long),
        "mm_token_type_ids": torch.tensor([[{IMAGE: 1, VIDEO: 2}.get(i, 0) for i in expanded]]),
    }
    if images:
        inputs["image_grid_thw"] = torch.tensor([[v.frames, 2 * v.rows, 2 * v.columns] for v in images])
    if videos:
        inputs["video_grid_thw"] = torch.tensor([[v.frames, 2 * v.rows, 2 * v.columns] for v in videos])
        inputs["second_per_grid_ts"] = torch.tensor([v.seconds for v in videos])
    return inputs


def _count(token, waiting):
    return math.prod(next(waiting).grid) if token in (IMAGE, VIDEO) else 1


@torch.inference_mode()
def merged(unsplit, visuals):
    """[N, H] visual tokens of each image and video."""
    return [
        unsplit.model.visual(
            v.patches(seed), grid_thw=torch.tensor([[v.frames, 2 * v.rows, 2 * v.columns]])
        ).pooler_output.numpy()
        for seed, v in enumerate(visuals)
    ]


def a_third(visuals, seed=5):
    """Positions of a third of the tokens of each image and video, in any order, as methods may emit them by rank."""
    random = np.random.default_rng(seed)
    counts = [math.prod(visual.grid) for visual in visuals]
    return [random.permutation(count)[: max(1, count // 3)].tolist() for count in counts]


@torch.inference_mode()
def answer_of(unsplit, ids, visuals, features, kept, max_tokens=NEW_TOKENS):
    """The unsplit language model fed with the kept tokens at the positions that they have in the whole prompt.

    Returns:
        Greedy tokens, and log-probabilities [n, V] of each.
    """
    inputs = inputs_of(ids, visuals)
    position_ids, _ = unsplit.model.get_rope_index(**inputs)
    embeds = unsplit.get_input_embeddings()(inputs["input_ids"][0])
    going_on, start, waiting = [], 0, iter(zip(visuals, features, kept, strict=True))
    for token in ids:
        if token not in (IMAGE, VIDEO):
            going_on.append(start)
            start += 1
            continue
        visual, rows, keep = next(waiting)
        embeds[start : start + len(rows)] = torch.from_numpy(rows)
        going_on += [start + i for i in keep]
        start += math.prod(visual.grid)
    return decoded(unsplit, embeds[going_on], position_ids[:, 0, going_on], max_tokens)


@torch.inference_mode()
def decoded(unsplit, embeds, positions, max_tokens=NEW_TOKENS):
    """Greedy tokens of a prompt [L, H] at positions [3, L] that ends in text, and log-probabilities [n, V] of each."""
    next_position = int(positions[0, -1]) + 1
    output = unsplit.model.language_model(inputs_embeds=embeds[None], position_ids=positions[:, None], use_cache=True)
    tokens, logprobs = [], []
    while True:
        logprobs.append(unsplit.lm_head(output.last_hidden_state[0, -1]).log_softmax(-1).numpy())
        tokens.append(int(logprobs[-1].argmax()))
        if len(tokens) == max_tokens or tokens[-1] in ENDS:
            return tokens, np.stack(logprobs)
        output = unsplit.model.language_model(
            inputs_embeds=unsplit.get_input_embeddings()(torch.tensor([[tokens[-1]]])),
            position_ids=torch.full((3, 1, 1), next_position),
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        next_position += 1
