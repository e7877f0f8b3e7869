"""Texts of CLIP's training: concepts, which hold for an image or do not, their wordings, and longer captions.

All texts are about the *whole image*; none is tied to a patch. A concept is worded as a caption or as a question that
names it, since pruners encode the question itself with CLIP's text tower.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from lab.balance import pick
from lab.questions import with_article
from lab.world576.kinds import CATEGORIES, COLORS, DISTRACTORS, OBJECT_KINDS, TEXTS, plural
from lab.world576.questions import TEMPLATES, relations
from lab.world576.scenes import IMAGE_SIZE, Scene, Thing

SIDES: Final = ("left", "right", "top", "bottom")
Concept = tuple[str, ...]


def _all_concepts() -> list[Concept]:
    concepts: list[Concept] = [("pair", look, kind) for look in COLORS for kind in OBJECT_KINDS]
    concepts += [("kind", kind) for kind in OBJECT_KINDS] + [("color", look) for look in COLORS]
    concepts += [("category", category) for category in CATEGORIES] + [("text", text) for text in TEXTS]
    concepts += [("kind place", kind, place) for kind in OBJECT_KINDS for place in SIDES]
    concepts += [("color place", look, place) for look in COLORS for place in SIDES]
    concepts += [("distractor", kind) for kind in DISTRACTORS]
    concepts += [("distractor place", kind, place) for kind in DISTRACTORS for place in SIDES]
    return concepts


CONCEPTS: Final = _all_concepts()
_INDEX = {concept: index for index, concept in enumerate(CONCEPTS)}
OF_COLORS: Final = np.array([concept[0] in ("pair", "color", "color place") for concept in CONCEPTS])
"""Whether each concept names a colour. In a natural scene it neither holds nor fails: an apple is red by itself."""


def _sides(thing: Thing) -> tuple[str, str]:
    middle = IMAGE_SIZE // 2
    return ("left" if thing.x < middle else "right"), ("top" if thing.y < middle else "bottom")


def concept_labels(scene: Scene) -> npt.NDArray[np.bool_]:
    """Whether each of `CONCEPTS` holds in the image, `[len(CONCEPTS)]`."""
    held: set[Concept] = set()
    for thing in scene.things:
        group = "distractor" if thing.distractor else "kind"
        held.add((group, thing.kind))
        held.update((f"{group} place", thing.kind, place) for place in _sides(thing))
        if thing.category in CATEGORIES:
            held.add(("category", thing.category))
        if thing.text:
            held.add(("text", thing.text))
        if thing.look:
            held.update({("pair", thing.look, thing.kind), ("color", thing.look)})
            held.update(("color place", thing.look, place) for place in _sides(thing))
    labels = np.zeros(len(CONCEPTS), dtype=bool)
    labels[[_INDEX[concept] for concept in held]] = True
    return labels


def _as_question(name: str, templates: tuple[str, ...], rng: np.random.Generator) -> str:
    template = pick(templates, rng)
    if template in ("existence", "count"):
        name = with_article(name) if template == "existence" else plural(name)
    return pick(TEMPLATES[template], rng).format(name)


def concept_text(concept: Concept, rng: np.random.Generator) -> str:
    """A random wording of a concept; about half of the wordings of objects are questions that name it."""
    group, *words = concept
    name = f"{words[0]} object" if group.startswith("color") else " ".join(words[: 2 if group == "pair" else 1])
    if group == "text":
        return pick([f"a sign that says {name}", f"the word {name}", f"{name} on a sign"], rng)
    if group.endswith("place"):
        side = f"on the {words[1]}" if words[1] in SIDES[:2] else f"at the {words[1]}"
        return pick([f"{with_article(name)} {side}", f"the {name} is {side}"], rng)
    if group == "category":
        return pick([with_article(name), *(text.format(name) for text in TEMPLATES["category"])], rng)
    if group != "distractor" and rng.random() < 0.5:
        own = {"pair": (), "kind": ("color", "count"), "color": ("kind", "count")}[group]
        reading = ("reading",) if words[-1] == "sign" else ()
        return _as_question(name, ("existence", "horizontal", "vertical", *own, *reading), rng)
    return pick([with_article(name), f"the {name}", f"a picture of {with_article(name)}", name], rng)


def composite_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of up to five things, or a relation of two of them."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    if len(things) >= 2 and rng.random() < 0.25:
        first, second = things[:2]
        true = [template for template, answer in relations(first, second) if answer == "yes"]
        if true:
            relation = pick(true, rng)
            link = f"to the {relation}" if relation.endswith("of") else relation
            return f"{with_article(first.name)} {link} {with_article(second.name)}"
    return "a picture of " + ", ".join(with_article(_with_detail(thing, rng)) for thing in things[:5])


def _with_detail(thing: Thing, rng: np.random.Generator) -> str:
    if thing.text and rng.random() < 0.6:
        return f"{thing.name} that says {thing.text}"
    if rng.random() < 0.3:
        side = pick(_sides(thing), rng)
        return f"{thing.name} {'on' if side in SIDES[:2] else 'at'} the {side}"
    return thing.name
