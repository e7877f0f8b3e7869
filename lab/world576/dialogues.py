"""Two-turn dialogues, whose second question is about something else in the same image.

A pruner that selects tokens by the first question has to select anew for the second one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from lab.scenes import evaluation_seed
from lab.world576.questions import Group, Question, candidates, draw
from lab.world576.scenes import Scene, sample_scene

# Groups whose questions are about one or two objects; a dialogue has two different ones.
DIALOGUE_GROUPS: Final[tuple[Group, ...]] = ("color", "kind", "existence", "side", "relation", "reading")


@dataclass(frozen=True)
class Dialogue:
    """Two questions about one scene, with no thing in common."""

    first: Question
    second: Question


def sample_dialogue(scene: Scene, rng: np.random.Generator, asked: Counter[str] | None = None) -> Dialogue | None:
    """A dialogue about a scene, or None if the scene allows none.

    Args:
        scene: scene of both questions.
        rng: random generator.
        asked: number of uses of each "group:answer" of second questions, updated here; see `questions.draw`.
    """
    order = [DIALOGUE_GROUPS[i] for i in rng.permutation(len(DIALOGUE_GROUPS))]
    possible = {group: [c for c in candidates(scene, group, rng) if c.subjects] for group in order}
    for opening in order:
        if not possible[opening]:
            continue
        first = draw(scene, opening, possible[opening], rng)
        for group in order:
            others = [c for c in possible[group] if not c.subjects & first.subjects] if group != opening else []
            if len({c.answer for c in others}) > 1 or (others and group not in ("existence", "relation", "side")):
                return Dialogue(first, draw(scene, group, others, rng, asked))
    return None


def evaluation_dialogues(split: Literal["easy", "crowded"], seed: int, num_scenes: int) -> list[Dialogue]:
    """Dialogues about images that are not in the training data, at most one an image, answers balanced."""
    rng = np.random.default_rng([seed, 5762])
    asked: Counter[str] = Counter()
    scenes = (sample_scene(split, evaluation_seed(seed, index)) for index in range(num_scenes))
    return [dialogue for scene in scenes if (dialogue := sample_dialogue(scene, rng, asked)) is not None]
