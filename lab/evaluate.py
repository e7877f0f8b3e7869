"""Unpruned accuracy of a checkpoint with plain transformers: `python -m lab.evaluate`.

Every question goes through the processor, the chat template and greedy `generate`, without any code of the training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lab.questions import GROUPS, Question, evaluation_questions, score

CHECKPOINT = Path(__file__).parent / "checkpoints" / "llava"
CORE_GROUPS = ("color", "shape", "existence", "count")


@torch.inference_mode()
def answers(checkpoint: Path, questions: Sequence[Question], batch: int = 64, progress: bool = False) -> list[str]:
    """Greedy answers of a checkpoint, in the order of the questions."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    # Captions are long and other answers are short, so batches of one kind finish together.
    order = sorted(range(len(questions)), key=lambda i: questions[i].group == "caption")
    texts: dict[int, str] = {}
    for begin in range(0, len(order), batch):
        part = order[begin : begin + batch]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": questions[i].text}]}],
                add_generation_prompt=True,
            )
            for i in part
        ]
        inputs = processor(images=[questions[i].image for i in part], text=prompts, padding=True, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        decoded = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        texts.update(zip(part, (text.strip() for text in decoded), strict=True))
        if progress:
            print(f"answered {min(begin + batch, len(order))}/{len(order)}", flush=True)
    return [texts[i] for i in range(len(questions))]


def accuracy(questions: Sequence[Question], answered: Sequence[str]) -> dict[str, Any]:
    """Percentage of right answers and number of questions per group, and means over all groups and the core groups."""
    scores: dict[str, list[float]] = defaultdict(list)
    for question, text in zip(questions, answered, strict=True):
        scores[question.group].append(score(question, text))
    groups = {group: 100 * sum(scores[group]) / len(scores[group]) for group in GROUPS if scores[group]}
    core = [groups[group] for group in CORE_GROUPS if group in groups]
    return {
        "groups": {group: round(value, 1) for group, value in groups.items()},
        "counts": {group: len(scores[group]) for group in groups},
        "core": round(sum(core) / len(core), 1) if core else None,
        "all": round(sum(groups.values()) / len(groups), 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m lab.evaluate`."""
    parser = argparse.ArgumentParser(prog="python -m lab.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--splits", nargs="+", default=["easy", "crowded"], choices=["easy", "crowded"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=270, help="images per split, up to eight questions each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"seed": options.seed, "scenes": options.scenes}
    for split in options.splits:
        began = time.time()
        questions = evaluation_questions(split, options.seed, options.scenes)
        results[split] = accuracy(questions, answers(options.checkpoint, questions, progress=True))
        results[split]["questions"] = len(questions)
        print(
            f"{split}: {len(questions)} questions in {time.time() - began:.0f} s {json.dumps(results[split])}",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
