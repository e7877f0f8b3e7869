"""Accuracy with 16 of 144 tokens kept by simple rules, which shows how well the small world separates pruners.

`python -m lab.discriminate` is a check during training. The benchmark of the services' pruners is
`benchmarks.accuracy`. Answers are scored teacher-forced, in batches, with `lab.packed`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lab.checkpoint import CHECKPOINTS
from lab.decoupled import fcma, last_layer_maps
from lab.packed import packed_hidden
from lab.question_pool import CAPTION_LENGTH, SHORT_LENGTH, BlockEncoder
from lab.questions import GROUPS, Question, evaluation_questions
from lab.render import render_array
from lab.token_drop import merge
from lab.tokenizers import PROMPT_HEAD
from lab.towers import normalize_pixels, text_token_states, tower_of, vision_states
from lab.train_llava import answer_loss

RULES = ("none", "random", "cls", "eos", "eos+cls", "fcma+cls", "clamped fcma+cls")


def _keep(rule: str, maps: dict[str, Tensor], keep: int, generator: torch.Generator) -> Tensor:
    """Indices of kept patches, `[B, keep]`, ascending; a rule with "+" spends half of the budget on each map."""
    first, _, second = rule.partition("+")
    scores = maps[first] if first in maps else torch.rand(maps["cls"].shape, generator=generator)
    if not second:
        return scores.topk(keep, dim=1).indices.sort(dim=1).values
    chosen = scores.topk((keep + 1) // 2, dim=1).indices
    rest = maps[second].scatter(1, chosen, float("-inf")).topk(keep // 2, dim=1).indices
    return torch.cat([chosen, rest], dim=1).sort(dim=1).values


@torch.inference_mode()
def compare(
    clip: CLIPModel,
    llava: LlavaForConditionalGeneration,
    clip_tokenizer: PreTrainedTokenizerFast,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    keep: int = 16,
    rules: Sequence[str] = RULES,
) -> dict[str, dict[str, float]]:
    """Percentage of right answers per rule and group, and over all groups ("all").

    Args:
        clip, llava: models.
        clip_tokenizer, tokenizer: tokenizers of CLIP and LLaVA.
        questions: questions with their scenes.
        keep: number of kept tokens of 144.
        rules: names of `RULES`.
    """
    encode, tower = BlockEncoder(tokenizer), tower_of(clip)
    head_ids = torch.tensor(tokenizer(PROMPT_HEAD, add_special_tokens=False)["input_ids"])
    right: dict[str, dict[str, list[bool]]] = {rule: defaultdict(list) for rule in rules}
    generator = torch.Generator().manual_seed(0)
    for begin in range(0, len(questions), 64):
        part = questions[begin : begin + 64]
        pixels = normalize_pixels(np.stack([render_array(q.scene) for q in part])).float()
        second_last, _ = vision_states(tower, pixels)
        decoupled, saliency = last_layer_maps(tower, clip.visual_projection, second_last)
        maps: dict[str, Tensor] = {"cls": saliency}
        per_image: dict[str, list[Tensor]] = defaultdict(list)
        for row, question in enumerate(part):
            ids = clip_tokenizer(question.text, return_tensors="pt")["input_ids"]
            tokens = functional.normalize(clip.text_projection(text_token_states(clip.text_model, ids))[0], dim=-1)
            patches, start = decoupled[row, 1:], decoupled[row, 0]
            per_image["eos"].append(patches @ tokens[-1])
            per_image["fcma"].append(fcma(patches, tokens, tokens[-1], start))
            per_image["clamped fcma"].append(fcma(patches, tokens, tokens[-1], start, clamp=True))
        maps |= {name: torch.stack(scores) for name, scores in per_image.items()}
        length = CAPTION_LENGTH if any(q.group == "caption" for q in part) else SHORT_LENGTH
        blocks = encode.stack(list(part), length)
        ids = torch.from_numpy(blocks.ids.astype(np.int64))[:, None]
        span = (torch.from_numpy(blocks.start)[:, None], torch.from_numpy(blocks.stop)[:, None])
        for rule in rules:
            features = second_last[:, 1:]
            if rule != "none":
                features = merge(features, _keep(rule, maps, keep, generator))
            hidden = packed_hidden(llava, features, head_ids, [ids])
            answered = answer_loss(llava, hidden, [ids], [span])[1][0][:, 0].tolist()
            for question, ok in zip(part, answered, strict=True):
                right[rule][question.group].append(ok)
    table = {}
    for rule, groups in right.items():
        each = {group: 100 * sum(groups[group]) / len(groups[group]) for group in GROUPS if groups[group]}
        table[rule] = {
            name: round(value, 1) for name, value in (each | {"all": sum(each.values()) / len(each)}).items()
        }
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m lab.discriminate`."""
    parser = argparse.ArgumentParser(prog="python -m lab.discriminate", description=__doc__)
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=700)
    parser.add_argument("--keep", type=int, default=16)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clip = CLIPModel.from_pretrained(CHECKPOINTS / "clip", dtype=torch.float32)
    llava = LlavaForConditionalGeneration.from_pretrained(CHECKPOINTS / "llava", dtype=torch.float32)
    tokenizers = [PreTrainedTokenizerFast.from_pretrained(CHECKPOINTS / name) for name in ("clip", "llava")]
    for split in ("easy", "crowded"):
        questions = evaluation_questions(split, options.seed, options.scenes, groups=GROUPS[:-1])
        table = compare(clip, llava, tokenizers[0], tokenizers[1], questions, options.keep)
        for rule, figures in table.items():
            print(
                f"{split:8} {rule:18} " + " ".join(f"{name}={value:.0f}" for name, value in figures.items()), flush=True
            )


if __name__ == "__main__":
    main()
