"""Questions with exact answers about a scene, in eight groups, and evaluation questions with balanced answers.

Every question has exactly one right answer. An object is named by a phrase that fits no other object. No question is
about the side of an object near a middle line, or about a relation that is nearly a tie. Distractors are never asked
about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from PIL import Image

from lab.balance import draw_balanced
from lab.questions import COMMON_TEMPLATES, relations_of_offset, score_answer, with_article
from lab.scenes import evaluation_seed
from lab.world576.composition import compose
from lab.world576.kinds import CATEGORIES, CATEGORY, COLORS, KINDS, SIGN, plural
from lab.world576.scenes import IMAGE_SIZE, Scene, Thing, sample_scene

Group = Literal["color", "kind", "existence", "count", "side", "relation", "reading", "caption"]
GROUPS: Final[tuple[Group, ...]] = ("color", "kind", "existence", "count", "side", "relation", "reading", "caption")

TEMPLATES: Final[dict[str, tuple[str, ...]]] = COMMON_TEMPLATES | {
    "kind": ("What is the {0}?", "What kind of thing is the {0}?", "Name the {0}."),
    "category": ("Which {0} is there?", "What {0} can you see?", "Which {0} is in the picture?"),
    "reading": ("What does the {0} say?", "What is written on the {0}?", "Read the {0}."),
}
# Least distance from a middle line for a side, and least difference of two centres for a relation, in pixels.
SIDE_MARGIN: Final = 24
RELATION_MARGIN: Final = 32
MAX_COUNT: Final = 5
_MOST_RELATED = 6  # objects of a scene whose relations are candidates; all pairs of twenty would be thousands


@dataclass(frozen=True)
class Candidate:
    """A possible question: template, names to fill in, answer, and indices in `scene.things` of what it is about."""

    template: str
    names: tuple[str, ...]
    answer: str
    subjects: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Question:
    """One question about one scene; `subjects` are indices in `scene.things`."""

    scene: Scene
    text: str
    answer: str
    group: Group
    subjects: frozenset[int] = frozenset()

    @property
    def image(self) -> Image.Image:
        """Image of the scene, composed at each access."""
        return compose([self.scene])[0]


def unique_names(scene: Scene) -> list[tuple[str, int]]:
    """Phrases that fit exactly one object ("fox", "red object", "red fox"), each with its index in `scene.things`."""
    kinds = Counter(thing.kind for thing in scene.objects)
    looks = Counter(thing.look for thing in scene.objects)
    pairs = Counter((thing.look, thing.kind) for thing in scene.objects)
    names = []
    for index, thing in enumerate(scene.things):
        if thing.distractor:
            continue
        if kinds[thing.kind] == 1:
            names.append((thing.kind, index))
        if thing.look and looks[thing.look] == 1:
            names.append((f"{thing.look} object", index))
        if thing.look and pairs[thing.look, thing.kind] == 1:
            names.append((thing.name, index))
    return names


def _colors(scene: Scene) -> Iterator[Candidate]:
    for name, index in unique_names(scene):
        thing = scene.things[index]
        if thing.look and name == thing.kind:
            yield Candidate("color", (name,), thing.look, frozenset([index]))


def _kinds(scene: Scene) -> Iterator[Candidate]:
    for name, index in unique_names(scene):
        if name.endswith(" object"):
            yield Candidate("kind", (name,), scene.things[index].kind, frozenset([index]))
    for category in CATEGORIES:
        members = [index for index, thing in enumerate(scene.things) if thing.category == category]
        if len(members) == 1:
            yield Candidate("category", (category,), scene.things[members[0]].kind, frozenset(members))


def _existence(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    """Hard negatives: colour and kind are both in a tinted image, but not together; a natural one has a thing alike."""
    present: dict[tuple[str, str], set[int]] = {}
    for index, thing in enumerate(scene.things):
        if not thing.distractor:
            present.setdefault((thing.look, thing.kind), set()).add(index)
    for (look, kind), indices in sorted(present.items()):
        yield Candidate("existence", (with_article(f"{look} {kind}".strip()),), "yes", frozenset(indices))
    kinds = {kind for _, kind in present}
    if scene.tinted:
        looks = {look for look, _ in present}
        absent = [(look, kind) for look in sorted(looks) for kind in sorted(kinds) if (look, kind) not in present]
        if not absent:  # one object, or all alike: one half is right
            absent = [(look, str(rng.choice(KINDS))) for look in sorted(looks)]
            absent += [(str(rng.choice(list(COLORS))), kind) for kind in sorted(kinds)]
            absent = [pair for pair in absent if pair not in present]
    else:
        absent = [("", kind) for kind in _alike(kinds)]
    for look, kind in absent:
        yield Candidate("existence", (with_article(f"{look} {kind}".strip()),), "no")


def _alike(kinds: set[str]) -> list[str]:
    """Kinds that are not among `kinds` but of the category of one of them."""
    categories = {CATEGORY[kind] for kind in kinds if kind != SIGN}
    return [kind for kind in KINDS if CATEGORY[kind] in categories and kind not in kinds]


def _counts(scene: Scene) -> Iterator[Candidate]:
    members: dict[str, set[int]] = {}
    for index, thing in enumerate(scene.things):
        if thing.distractor:
            continue
        for name in (thing.kind, thing.category, f"{thing.look} object" if thing.look else ""):
            if name and name != "thing":
                members.setdefault(name, set()).add(index)
    absent = _alike({thing.kind for thing in scene.objects})
    absent += [f"{look} object" for look in COLORS] * scene.tinted + [*CATEGORIES, SIGN]
    for name in dict.fromkeys([*members, *absent]):
        found = members.get(name, set())
        if len(found) <= MAX_COUNT:
            yield Candidate("count", (plural(name),), str(len(found)), frozenset(found))


def _sides(scene: Scene) -> Iterator[Candidate]:
    middle = IMAGE_SIZE // 2
    for name, index in unique_names(scene):
        thing = scene.things[index]
        if abs(thing.x - middle) >= SIDE_MARGIN:
            yield Candidate("horizontal", (name,), "left" if thing.x < middle else "right", frozenset([index]))
        if abs(thing.y - middle) >= SIDE_MARGIN:
            yield Candidate("vertical", (name,), "top" if thing.y < middle else "bottom", frozenset([index]))


def _relations(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    named: dict[int, list[str]] = {}
    for name, index in unique_names(scene):
        named.setdefault(index, []).append(name)
    chosen = [list(named)[i] for i in rng.permutation(len(named))[:_MOST_RELATED]]
    for first in chosen:
        for second in chosen:
            if first != second:
                names = str(rng.choice(named[first])), str(rng.choice(named[second]))
                for template, answer in relations(scene.things[first], scene.things[second]):
                    yield Candidate(template, names, answer, frozenset([first, second]))


def relations(first: Thing, second: Thing) -> Iterator[tuple[str, str]]:
    """Template and answer of each relation of two things that is no tie."""
    return relations_of_offset(first.x - second.x, first.y - second.y, RELATION_MARGIN)


def _readings(scene: Scene) -> Iterator[Candidate]:
    for name, index in unique_names(scene):
        thing = scene.things[index]
        if thing.text and not name.endswith(" object"):
            yield Candidate("reading", (name,), thing.text, frozenset([index]))


def describe(scene: Scene) -> str:
    """Answer to a caption question: the names of all things in reading order."""
    return ", ".join(thing.name for thing in scene.in_reading_order)


def candidates(scene: Scene, group: Group, rng: np.random.Generator) -> list[Candidate]:
    """Possible questions of a group about a scene."""
    match group:
        case "color":
            return list(_colors(scene))
        case "kind":
            return list(_kinds(scene))
        case "existence":
            return list(_existence(scene, rng))
        case "count":
            return list(_counts(scene))
        case "side":
            return list(_sides(scene))
        case "relation":
            return list(_relations(scene, rng))
        case "reading":
            return list(_readings(scene))
        case "caption":
            return [Candidate("caption", (), describe(scene), frozenset(range(len(scene.things))))]


def draw(
    scene: Scene,
    group: Group,
    possible: Sequence[Candidate],
    rng: np.random.Generator,
    asked: Counter[str] | None = None,
) -> Question:
    """One of the candidate questions about a scene; see `lab.balance.draw_balanced`."""
    chosen, text = draw_balanced(group, possible, TEMPLATES, rng, asked)
    return Question(scene, text, chosen.answer, group, chosen.subjects)


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
    rng = np.random.default_rng([seed, 5760])
    asked: Counter[str] = Counter()
    questions = []
    for index in range(num_scenes):
        scene = sample_scene(split, evaluation_seed(seed, index))
        for group in groups:
            question = ask(scene, group, rng, asked)
            if question is not None:
                questions.append(question)
    return questions


def score(question: Question, answer_text: str) -> float:
    """Score of an answer to a question; see `lab.questions.score_answer`."""
    names = (thing.name for thing in question.scene.things)
    return score_answer(question.group, question.answer, names, answer_text)
