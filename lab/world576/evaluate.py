"""Unpruned accuracy of a checkpoint with plain transformers: `python -m lab.world576.evaluate`.

Every question goes through the processor, the chat template and greedy `generate`, without any code of the training.
The second question of a dialogue is asked after the right answer to the first one.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lab.world576.composition import Composer, compose
from lab.world576.dialogues import evaluation_dialogues
from lab.world576.questions import GROUPS, Question, evaluation_questions, score
from lab.world576.scenes import Scene

SPLITS: Final[tuple[Literal["easy", "crowded"], ...]] = ("easy", "crowded")
_MAX_NEW_TOKENS: Final = 80
Turn = tuple[Question, Question | None]  # a question, and one that has been answered before


def _images(scenes: Sequence[Scene], composer: Composer, batch: int) -> dict[Scene, Image.Image]:
    """Image of each scene."""
    unique = list(dict.fromkeys(scenes))
    images: dict[Scene, Image.Image] = {}
    for begin in range(0, len(unique), batch):
        part = unique[begin : begin + batch]
        images.update(zip(part, compose(part, composer), strict=True))
    return images


def _prompt(processor: Any, turn: Turn) -> str:
    question, earlier = turn
    image: dict[str, str] = {"type": "image"}
    messages: list[dict[str, Any]] = []
    for asked in (earlier, question):
        if asked is not None:
            content = [image] * (not messages) + [{"type": "text", "text": asked.text}]
            messages.append({"role": "user", "content": content})
            if asked is earlier:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": asked.answer}]})
    text: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    return text


@torch.inference_mode()
def answers(checkpoint: Path, turns: Sequence[Turn], composer: Composer, batch: int = 64) -> list[str]:
    """Greedy answers of a checkpoint, in the order of the turns.

    Args:
        checkpoint: folder of a `LlavaForConditionalGeneration` with its processor.
        turns: questions.
        composer: composer of the images, whose device is that of the model.
        batch: number of questions in a batch.
    """
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).to(composer.device).eval()
    images = _images([question.scene for question, _ in turns], composer, batch)
    # Captions are long and other answers are short, so batches of one kind finish together.
    order = sorted(range(len(turns)), key=lambda i: turns[i][0].group == "caption")
    texts: dict[int, str] = {}
    for begin in range(0, len(order), batch):
        part = order[begin : begin + batch]
        pictures = [images[turns[i][0].scene] for i in part]
        prompts = [_prompt(processor, turns[i]) for i in part]
        inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt").to(composer.device)
        out = model.generate(**inputs, max_new_tokens=_MAX_NEW_TOKENS, do_sample=False)
        decoded = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        texts.update(zip(part, (text.strip() for text in decoded), strict=True))
    return [texts[i] for i in range(len(turns))]


def evaluate(checkpoint: Path, composer: Composer, seed: int, num_scenes: int, batch: int = 64) -> dict[str, Any]:
    """Percentage of right answers per split and group and of second questions of dialogues, and the groups' mean."""
    results: dict[str, Any] = {"seed": seed, "scenes": num_scenes}
    for split in SPLITS:
        questions = evaluation_questions(split, seed, num_scenes)
        dialogues = evaluation_dialogues(split, seed, num_scenes)
        turns: list[Turn] = [(question, None) for question in questions]
        turns += [(dialogue.second, dialogue.first) for dialogue in dialogues]
        scores: dict[str, list[float]] = defaultdict(list)
        for (question, earlier), text in zip(turns, answers(checkpoint, turns, composer, batch), strict=True):
            scores["second turn" if earlier else question.group].append(score(question, text))
        percent = {group: 100 * sum(values) / len(values) for group, values in scores.items()}
        of_groups = [percent[group] for group in GROUPS if group in percent]
        results[split] = {
            "groups": {group: round(value, 1) for group, value in percent.items()},
            "counts": {group: len(values) for group, values in scores.items()},
            "all": round(sum(of_groups) / len(of_groups), 1),
            "questions": len(turns),
        }
        print(f"{split}: {json.dumps(results[split])}", flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m lab.world576.evaluate`."""
    parser = argparse.ArgumentParser(prog="python -m lab.world576.evaluate", description="Unpruned accuracy.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=270, help="images per split")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    results = evaluate(options.checkpoint, Composer(options.device), options.seed, options.scenes)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
