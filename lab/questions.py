"""Questions with exact answers about a scene, in eight groups, and the score of an answer.

Every question has exactly one right answer. An object is named by a phrase that fits no other object. No question is
about the side of an object near the middle line, or about a relation that is nearly a tie. Distractors are never asked
about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from lab.balance import draw_balanced
from lab.render import render
from lab.scenes import COLORS, IMAGE_SIZE, SHAPES, Scene, Thing, evaluation_seed, sample_scene

Group = Literal["color", "shape", "existence", "count", "side", "relation", "reading", "caption"]
GROUPS: tuple[Group, ...] = ("color", "shape", "existence", "count", "side", "relation", "reading", "caption")

COMMON_TEMPLATES: dict[str, tuple[str, ...]] = {
    "color": ("What color is the {0}?", "Which color does the {0} have?", "Tell me the color of the {0}."),
    "existence": ("Is there {0}?", "Can you see {0} in the picture?", "Does the picture show {0}?"),
    "count": ("How many {0} are there?", "How many {0} can you see?", "Count the {0}."),
    "horizontal": ("Is the {0} on the left or on the right?", "On which side is the {0}, left or right?"),
    "vertical": ("Is the {0} at the top or at the bottom?", "Where is the {0}, top or bottom?"),
    "left of": ("Is the {0} to the left of the {1}?", "Is the {0} left of the {1}?"),
    "right of": ("Is the {0} to the right of the {1}?", "Is the {0} right of the {1}?"),
    "above": ("Is the {0} above the {1}?", "Is the {0} higher than the {1}?"),
    "below": ("Is the {0} below the {1}?", "Is the {0} lower than the {1}?"),
    "left or right": ("Is the {0} left or right of the {1}?",),
    "above or below": ("Is the {0} above or below the {1}?",),
    "caption": ("Describe the picture.", "What is in the picture?", "What do you see?", "List everything you see."),
}
"""Templates of this world and of `lab.world576`."""
TEMPLATES = COMMON_TEMPLATES | {
    "shape": ("What shape is the {0}?", "Which shape does the {0} have?", "Tell me the shape of the {0}."),
    "reading": ("What letter is on the {0}?", "Which letter does the {0} carry?", "Read the letter on the {0}."),
}
RELATIONS = ("left of", "right of", "above", "below")
# Least distance from the middle line for a side, and least difference of two centres for a relation, in pixels.
SIDE_MARGIN = 10
RELATION_MARGIN = 14
MAX_COUNT = 5


class Candidate(NamedTuple):
    """A possible question: template key, the names to fill in, and the answer."""

    template: str
    names: tuple[str, ...]
    answer: str


def with_article(name: str) -> str:
    """Name with its article: "a red star", "an orange star"."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(name: str) -> str:
    """Plural of a name: "red objects", "crosses"."""
    return f"{name}es" if name.endswith("s") else f"{name}s"


@dataclass(frozen=True)
class Question:
    """One question about one scene."""

    scene: Scene
    text: str
    answer: str
    group: Group

    @property
    def image(self) -> Image.Image:
        """Image of the scene, rendered at each access."""
        return render(self.scene)


def unique_names(scene: Scene) -> list[tuple[str, Thing]]:
    """Phrases that fit exactly one object ("star", "red object", "red star"), each with that object."""
    things = scene.objects
    shapes = Counter(thing.shape for thing in things)
    looks = Counter(thing.look for thing in things)
    pairs = Counter(thing.name for thing in things)
    names = []
    for thing in things:
        if shapes[thing.shape] == 1:
            names.append((thing.shape, thing))
        if looks[thing.look] == 1:
            names.append((f"{thing.look} object", thing))
        if pairs[thing.name] == 1:
            names.append((thing.name, thing))
    return names


def _existence(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    present = {(thing.look, thing.shape) for thing in scene.objects}
    looks, shapes = sorted({look for look, _ in present}), sorted({shape for _, shape in present})
    for look, shape in sorted(present):
        yield Candidate("existence", (with_article(f"{look} {shape}"),), "yes")
    # Hard negatives: colour and shape are both in the image, but not together. If there are none, only one of them is.
    hard = [(look, shape) for look in looks for shape in shapes if (look, shape) not in present]
    if not hard:
        hard = [(look, str(rng.choice(SHAPES))) for look in looks] + [
            (str(rng.choice(COLORS)), shape) for shape in shapes
        ]
        hard = [pair for pair in hard if pair not in present]
    for look, shape in hard:
        yield Candidate("existence", (with_article(f"{look} {shape}"),), "no")


def _count(scene: Scene) -> Iterator[Candidate]:
    shapes = Counter(thing.shape for thing in scene.objects)
    looks = Counter(thing.look for thing in scene.objects)
    counts = [(shape, shapes[shape]) for shape in SHAPES] + [(f"{look} object", looks[look]) for look in COLORS]
    if not scene.distractors:
        counts.append(("object", len(scene.objects)))
    for name, count in counts:
        if count <= MAX_COUNT:
            yield Candidate("count", (plural(name),), str(count))


def _side(scene: Scene) -> Iterator[Candidate]:
    middle = IMAGE_SIZE // 2
    for name, thing in unique_names(scene):
        if abs(thing.x - middle) >= SIDE_MARGIN:
            yield Candidate("horizontal", (name,), "left" if thing.x < middle else "right")
        if abs(thing.y - middle) >= SIDE_MARGIN:
            yield Candidate("vertical", (name,), "top" if thing.y < middle else "bottom")


def _relation(scene: Scene) -> Iterator[Candidate]:
    names = unique_names(scene)
    for first_name, first in names:
        for second_name, second in names:
            if first is second:
                continue
            for template, answer in relations_of_offset(first.x - second.x, first.y - second.y, RELATION_MARGIN):
                yield Candidate(template, (first_name, second_name), answer)


def relations_of_offset(dx: int, dy: int, margin: int) -> Iterator[tuple[str, str]]:
    """Template and answer of each relation of two things that is no tie.

    Args:
        dx, dy: centre of the first thing less that of the second, in pixels.
        margin: least difference of two centres for a relation, in pixels.
    """
    for relation, value in zip(RELATIONS, (-dx, dx, -dy, dy), strict=True):
        if abs(value) >= margin:
            yield relation, "yes" if value > 0 else "no"
    if abs(dx) >= margin:
        yield "left or right", "left" if dx < 0 else "right"
    if abs(dy) >= margin:
        yield "above or below", "above" if dy < 0 else "below"


def candidates(scene: Scene, group: Group, rng: np.random.Generator) -> list[Candidate]:
    """All questions of a group about a scene."""
    if group == "color":
        return [Candidate("color", (name,), thing.look) for name, thing in unique_names(scene) if name == thing.shape]
    if group == "shape":
        named = ((name, thing) for name, thing in unique_names(scene) if name.endswith("object"))
        return [Candidate("shape", (name,), thing.shape) for name, thing in named]
    if group == "existence":
        return list(_existence(scene, rng))
    if group == "count":
        return list(_count(scene))
    if group == "side":
        return list(_side(scene))
    if group == "relation":
        return list(_relation(scene))
    if group == "reading":
        return [Candidate("reading", (name,), thing.letter) for name, thing in unique_names(scene) if thing.letter]
    return [Candidate("caption", (), describe(scene))]


def describe(scene: Scene) -> str:
    """Answer to a caption question: the names of all things in the image, in reading order."""
    return ", ".join(thing.name for thing in scene.things)


def draw(
    scene: Scene,
    group: Group,
    possible: Sequence[Candidate],
    rng: np.random.Generator,
    asked: Counter[str] | None = None,
) -> Question:
    """One of the candidate questions about a scene; see `lab.balance.draw_balanced`."""
    chosen, text = draw_balanced(group, possible, TEMPLATES, rng, asked)
    return Question(scene, text, chosen.answer, group)


def ask(scene: Scene, group: Group, rng: np.random.Generator, asked: Counter[str] | None = None) -> Question | None:
    """One question of a group, or None if the scene allows none; see `draw`."""
    possible = candidates(scene, group, rng)
    return draw(scene, group, possible, rng, asked) if possible else None


def evaluation_questions(
    split: Literal["easy", "crowded"], seed: int, num_scenes: int, groups: Sequence[Group] = GROUPS
) -> list[Question]:
    """Questions about images that are not in the training data: for each image one of each group that it allows.

    The result depends on the arguments only. Answers are balanced over the set. Questions about the same image are
    adjacent.

    Args:
        split: split of the scenes.
        seed: number of the evaluation run.
        num_scenes: number of images.
        groups: groups of the questions.
    """
    rng = np.random.default_rng([seed, 1234])
    asked: Counter[str] = Counter()
    questions = []
    for index in range(num_scenes):
        scene = sample_scene(split, evaluation_seed(seed, index))
        for group in groups:
            question = ask(scene, group, rng, asked)
            if question is not None:
                questions.append(question)
    return questions


def normalize(text: str) -> str:
    """Lower case, without punctuation at the ends."""
    return re.sub(r"^[\s.,!?]+|[\s.,!?]+$", "", text).lower()


def score_answer(group: str, answer: str, names: Iterable[str], answer_text: str) -> float:
    """Score of an answer: 1.0 for a right and 0.0 for a wrong one; for a caption the F1 measure of the named things.

    Args:
        group: group of the question.
        answer: right answer.
        names: names of all things in the image.
        answer_text: answer to score.
    """
    if group != "caption":
        return float(normalize(answer_text) == normalize(answer))
    expected = Counter(names)
    named = Counter(normalize(part) for part in answer_text.split(",") if part.strip())
    right = sum((expected & named).values())
    return 2 * right / (sum(expected.values()) + sum(named.values())) if right else 0.0


def score(question: Question, answer_text: str) -> float:
    """Score of an answer to a question; see `score_answer`."""
    names = (thing.name for thing in question.scene.things)
    return score_answer(question.group, question.answer, names, answer_text)
