"""Model card of a training of the world of 576 tokens, from its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.checkpoint import parameter_count
from lab.world576.kinds import KINDS, WORDS
from lab.world576.questions import GROUPS
from lab.world576.recipe import Recipe

# The shipped model is replaced by this one where it answers as much as this without pruning, in per cent.
LEAST_EASY, LEAST_CROWDED = 95.0, 88.0

_TEMPLATE = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# CLIP and LLaVA of the world of 576 tokens

Two models trained from nothing on composed scenes of {kinds} kinds of things, and signs with one of {words} words or a
number, on 336 x 336 images (24 x 24 patches of 14 pixels). They know nothing else. `lab/world576` has the scenes, the
questions and the training. The pictures of the things are from Noto Color Emoji (SIL Open Font License 1.1).

| | `clip` | `llava` |
|---|---|---|
| class | `CLIPModel` | `LlavaForConditionalGeneration` (hub key layout) |
| parameters | {clip_parameters} | {llava_parameters}, tower included |
| vision | {vision}, 576 patches + CLS | the same tower, frozen; layer -2, CLS dropped |
| language | text tower, {text} | Llama, {llama} |
| steps | {clip_steps} of {recipe.clip_batch} images | {llava_steps} of {recipe.llava_batch} images |

The weights are bfloat16 safetensors in parts of at most 16 MB, which `from_pretrained` joins.

## Accuracy

Unpruned, greedy, plain transformers, images that were not trained on (evaluation seed {seed}, {scenes} scenes a split);
right answers in per cent, descriptions by the F1 of the things named.

{table}

{verdict}

Nothing was moved after the training: the alignment is what the training gave.
"""


def card(checkpoints: Path, figures: dict[str, Any], recipe: Recipe, steps: dict[str, int]) -> str:
    """Text of the model card.

    Args:
        checkpoints: folder with `clip` and `llava`.
        figures: result of `lab.world576.evaluate.evaluate`.
        recipe: recipe of the training.
        steps: number of steps of `clip` and `llava`.
    """
    size = recipe.size
    names = (*GROUPS, "second turn")
    rows = ["| split | " + " | ".join(names) + " | all | questions |", "|---" * (len(names) + 3) + "|"]
    for split in ("easy", "crowded"):
        part = figures[split]
        cells = [str(part["groups"].get(name, "none asked")) for name in names]
        rows.append(f"| {split} | " + " | ".join(cells) + f" | {part['all']} | {part['questions']} |")
    good = figures["easy"]["all"] >= LEAST_EASY and figures["crowded"]["all"] >= LEAST_CROWDED
    verdict = f'"all" is the mean over the groups. It is {"at" if good else "not at"} the level of a model to ship: '
    verdict += f"{LEAST_EASY:g} easy and {LEAST_CROWDED:g} crowded."
    return _TEMPLATE.format(
        kinds=len(KINDS),
        words=len(WORDS),
        clip_parameters=parameter_count(checkpoints / "clip"),
        llava_parameters=parameter_count(checkpoints / "llava"),
        vision=f"{size.vision_layers} layers x {size.vision_width}",
        text=f"{size.text_layers} layers x {size.text_width}",
        llama=f"{size.llama_layers} layers x {size.llama_width}",
        recipe=recipe,
        clip_steps=steps["clip"],
        llava_steps=steps["llava"],
        seed=figures["seed"],
        scenes=figures["scenes"],
        table="\n".join(rows),
        verdict=verdict,
    )
