"""Recipe of the training: sizes of the models, numbers of scenes and steps, rates; in full, and small for a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.models import ModelSize
from lab.world576.scenes import IMAGE_SIZE, PATCH_SIZE

MAX_PART_BYTES: Final = 16 * 10**6
"""Largest size of a file of weights."""
MAX_TENSOR_BYTES: Final = MAX_PART_BYTES - 500_000
"""Largest size of the tensors in such a file; the rest is for its header."""


@dataclass(frozen=True)
class Recipe:
    """All that a training depends on, apart from its seed.

    Attributes:
        size: sizes of the models.
        scenes: number of training scenes.
        tokenizer_scenes: number of scenes whose texts the tokenizers are trained on.
        clip_batch, llava_batch: images in a step.
        concepts: short phrases in a step of CLIP.
        questions: short questions for each image in a step of LLaVA.
        most_clip_steps, most_llava_steps: largest numbers of steps; the plan of minutes may allow fewer.
        evaluation_scenes: images of each split that are evaluated.
        alignment_scenes: images of a report on the alignment of CLIP's maps.
        saves: saves of a whole run.
        measured: whether the number of steps follows from the measured pace.
    """

    size: ModelSize
    scenes: int
    tokenizer_scenes: int
    clip_batch: int
    llava_batch: int
    concepts: int
    questions: int
    most_clip_steps: int
    most_llava_steps: int
    evaluation_scenes: int
    alignment_scenes: int
    saves: int
    measured: bool


_HEAD_WIDTH = 64

# Together 45.5 MB in bfloat16: CLIP 17, LLaVA with the same tower 28.
FULL: Final = Recipe(
    size=ModelSize(8, 256, 4, 192, 256, 8, 256, 768, _HEAD_WIDTH, IMAGE_SIZE, PATCH_SIZE),
    scenes=60_000,
    tokenizer_scenes=1500,
    clip_batch=128,
    llava_batch=64,
    concepts=384,
    questions=12,
    most_clip_steps=6000,
    most_llava_steps=6000,
    evaluation_scenes=270,
    alignment_scenes=64,
    saves=8,
    measured=True,
)
SMALL: Final = Recipe(
    size=ModelSize(2, 32, 1, 32, 32, 2, 32, 64, _HEAD_WIDTH, IMAGE_SIZE, PATCH_SIZE),
    scenes=48,
    tokenizer_scenes=24,
    clip_batch=4,
    llava_batch=2,
    concepts=48,
    questions=4,
    most_clip_steps=6,
    most_llava_steps=6,
    evaluation_scenes=2,
    alignment_scenes=4,
    saves=2,
    measured=False,
)

CLIP_RATE, CLIP_MUON_RATE = 1.5e-3, 0.012
LLAVA_RATE, LLAVA_MUON_RATE = 3e-3, 0.02
CURRICULUM_SHARE: Final = 0.1  # share of the run that sees no crowded scenes
PATCH_HEAD_UNTIL: Final = 0.5  # share of CLIP's run after which the patch head's weight decreases, to 0 at 0.9
DROP_FROM, DROP_SHARE = 0.5, 0.2  # share of LLaVA's run without dropped tokens, and of later steps with them
DROP_KEEP: Final = (64, 128, 192)
CAPTION_WEIGHT: Final = 0.8
