"""Model card of the checkpoints from the recipe's constants and measured figures: `python -m lab.card FIGURES`.

`FIGURES` is the JSON file of `python -m lab.evaluate --out`; the other figures come from the files of the options.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import train_clip, train_llava
from lab.captions import CONCEPTS
from lab.checkpoint import CHECKPOINTS, parameter_count
from lab.questions import GROUPS

_TEMPLATE = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The small world's CLIP and LLaVA

Two models small enough to ship with the source and trained from nothing, so that the services answer really and
every pruner is compared on answers that can be right or wrong. They know rendered scenes of coloured shapes, letters
and textured distractors on 144 x 144 images, and nothing else.

| | `clip` | `llava` |
|---|---|---|
| class | `CLIPModel` | `LlavaForConditionalGeneration` (hub key layout) |
| parameters | {clip_parameters} | {llava_parameters}, tower included |
| vision | 6 layers x 128, 4 heads, patch 12: 144 patches + CLS | the same tower, frozen; layer -2, CLS dropped |
| language | text tower, 2 layers x 128 | Llama, 8 layers x 160, 5 heads; MLP projector |
| weights | float16 safetensors | float16 safetensors |

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("lab/checkpoints/llava")
model = AutoModelForImageTextToText.from_pretrained("lab/checkpoints/llava")
```

## Accuracy

Unpruned, greedy, plain transformers, fresh images (evaluation seed {seed}, {scenes} scenes a split, up to one
question of each group per image, answers balanced): `python -m lab.evaluate --seed {seed} --scenes {scenes}`. Captions
are scored by F1 of the things named. Chance: 12.5 for colour, shape and reading, 50 for existence and relation, about
17 for count, 50 for side.

{table}

"core" is the mean over colour, shape, existence and count; "all" over all eight groups.

## Does the world tell pruners apart?

Percent right with 16 of 144 tokens kept (1/9), the dropped ones merged into the most similar kept one by mean; from
`python -m lab.discriminate`, which scores teacher-forced. `cls`: attention of the last layer's CLS row; `eos`: cosine
of decoupled patch features with the question; `fcma`: DeSAP's map as printed; `a+b`: half of the budget each.

{discrimination}

## Data

48,000 training images from seeds 0..47,999: one in twelve with 1-2 large objects, five easy (3-6 objects), six
crowded (8-14 things, of which 2-3 large textured distractors that are never asked about). 8 shapes x 8 colours x 2
sizes, 40 % with one of 8 letters, five kinds of background. Evaluation seeds start at 10,000,000 and are never trained
on. 24 short questions, 4 extra ones and one caption per image. No data from outside: renderer, letters and texts are
all in `lab/`.

## Recipe

**CLIP**: {clip_steps} steps of {clip_batch} images. Multi-positive softmax of images against {concepts} of
{all_concepts} short phrases (each worded as a caption or as a question that names it) both ways, InfoNCE with composite
captions; cosines of unmatched pairs held near +0.12. A linear head on the second-last layer's patches (shape, look,
letter, offset to the centre, place) warms up the trunk, fades from half of the run and is thrown away. All alignment
with text is image-level: neither the last layer's q-q branch nor any patch-text similarity is ever trained. Muon for
matrices (rate {clip_muon}), AdamW for the rest ({clip_rate}), bfloat16 with float32 masters.

**LLaVA**: {llava_steps} steps of {llava_batch} images x {questions} questions (block mask: each question sees the
image and itself) and one caption, loss on answers only; Muon {llava_muon}, AdamW {llava_rate}. In the
second half, 20 % of the steps see 16 or 48 randomly chosen tokens, the rest merged into the most similar.
Three more questions per image ask in which cell of a 6 x 6 grid a thing stands, which of two relations holds, or
for a count above one.

`python -m lab train` trains both afresh by this recipe. {history}

## Limits

Anything outside the world gets an answer from inside it.

After training, `post_layernorm.bias` was moved once by a closed form (`lab.offset`): a shift of the image embeddings
that is alike for all texts, computed from texts and image embeddings only. Its length was chosen knowing its purpose:
without it 96 % of patches had a negative cosine with the question in the decoupled branch and DeSAP's map as printed
found the asked object in 0 % of its best 8 patches, with it 8 % and 42 %. The features that LLaVA reads are untouched.

Alignment on 40 crowded images (`lab.decoupled`; precision of the best 8 patches on the object asked about):
`{alignment}`
"""


def _table(figures: dict[str, Any]) -> str:
    rows = ["| split | " + " | ".join(GROUPS) + " | core | all | questions |", "|---" * (len(GROUPS) + 4) + "|"]
    for split in ("easy", "crowded"):
        part = figures[split]
        cells = [f"{part['groups'].get(group, float('nan')):.1f}" for group in GROUPS]
        rows.append(f"| {split} | " + " | ".join(cells) + f" | {part['core']} | {part['all']} | {part['questions']} |")
    return "\n".join(rows)


def card(figures: dict[str, Any], discrimination: str, alignment: str, history: str) -> str:
    """Text of the model card.

    Args:
        figures: JSON object of `python -m lab.evaluate --out`.
        discrimination: output of `python -m lab.discriminate`.
        alignment: last alignment report of the CLIP training.
        history: training times of the shipped run.
    """
    return _TEMPLATE.format(
        clip_parameters=parameter_count(CHECKPOINTS / "clip"),
        llava_parameters=parameter_count(CHECKPOINTS / "llava"),
        seed=figures["seed"],
        scenes=figures["scenes"],
        table=_table(figures),
        discrimination=discrimination,
        clip_steps=train_clip.STEPS,
        clip_batch=train_clip.BATCH,
        concepts=train_clip.CONCEPTS_PER_STEP,
        all_concepts=len(CONCEPTS),
        clip_muon=train_clip.MUON_RATE,
        clip_rate=train_clip.LEARNING_RATE,
        llava_steps=train_llava.STEPS,
        llava_batch=train_llava.BATCH,
        questions=train_llava.QUESTIONS,
        llava_muon=train_llava.MUON_RATE,
        llava_rate=train_llava.LEARNING_RATE,
        history=history,
        alignment=alignment,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m lab.card`."""
    parser = argparse.ArgumentParser(prog="python -m lab.card", description=__doc__)
    parser.add_argument("figures", type=Path, help="JSON of python -m lab.evaluate --out")
    parser.add_argument("--discrimination", type=Path, help="output of python -m lab.discriminate")
    parser.add_argument("--clip-log", type=Path, help="log of the CLIP training, for its last alignment line")
    parser.add_argument("--out", type=Path, help="file to write (left out: the card is printed)")
    parser.add_argument(
        "--history", default="", help="training times of the shipped run, and deviations from the recipe"
    )
    options = parser.parse_args(arguments)
    discrimination = "Not measured."
    if options.discrimination:
        discrimination = "```\n" + options.discrimination.read_text().strip() + "\n```"
    lines = re.findall(r"alignment (\{.*\})", options.clip_log.read_text()) if options.clip_log else []
    text = card(json.loads(options.figures.read_text()), discrimination, lines[-1] if lines else "n/a", options.history)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
