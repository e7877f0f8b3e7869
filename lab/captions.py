"""Texts of CLIP's training: concepts, which hold for an image or do not, their wordings, and longer captions.

All texts are about the *whole image*; none is tied to a patch. A concept is worded as a caption or as a question that
names it, since the pruner encodes the question itself with CLIP's text tower.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lab.balance import pick
from lab.questions import RELATIONS, TEMPLATES, plural, with_article
from lab.scenes import COLORS, DISTRACTOR_SHAPES, IMAGE_SIZE, LETTERS, SHAPES, TEXTURES, Scene, Thing

SIDES = ("left", "right", "top", "bottom")
_QUESTIONS_ON_ANY = ("existence", "horizontal", "vertical", "reading")

Concept = tuple[str, ...]


def _all_concepts() -> list[Concept]:
    concepts: list[Concept] = [("pair", look, shape) for look in COLORS for shape in SHAPES]
    concepts += [("color", look) for look in COLORS] + [("shape", shape) for shape in SHAPES]
    concepts += [("letter", letter) for letter in LETTERS]
    concepts += [("shape letter", shape, letter) for shape in SHAPES for letter in LETTERS]
    concepts += [("color letter", look, letter) for look in COLORS for letter in LETTERS]
    concepts += [("shape place", shape, place) for shape in SHAPES for place in SIDES]
    concepts += [("color place", look, place) for look in COLORS for place in SIDES]
    concepts += [("distractor", look, shape) for look in TEXTURES for shape in DISTRACTOR_SHAPES]
    concepts += [("distractor shape", shape) for shape in DISTRACTOR_SHAPES]
    concepts += [("texture", look) for look in TEXTURES]
    concepts += [("distractor place", shape, place) for shape in DISTRACTOR_SHAPES for place in SIDES]
    concepts += [("texture place", look, place) for look in TEXTURES for place in SIDES]
    return concepts


CONCEPTS = _all_concepts()
_INDEX = {concept: index for index, concept in enumerate(CONCEPTS)}
_PROMINENT = np.array([concept[0].startswith(("distractor", "texture")) for concept in CONCEPTS])


def concept_weights(crowded: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Weight of each concept in each image, `[B, len(CONCEPTS)]`.

    Captions of photographs name the main subjects and few of the small things. Likewise in a crowded image distractors
    have weight 3 and objects a third; the looks of objects are learned from images without distractors.

    Args:
        crowded: whether each image is crowded, `[B]`.
    """
    weights = np.where(_PROMINENT, 3.0, np.where(crowded[:, None], 0.33, 1.0))
    return weights.astype(np.float32)


def _sides(thing: Thing) -> tuple[str, str]:
    middle = IMAGE_SIZE // 2
    return ("left" if thing.x < middle else "right"), ("top" if thing.y < middle else "bottom")


def concept_labels(scene: Scene) -> npt.NDArray[np.bool_]:
    """Whether each of `CONCEPTS` holds in the image, `[len(CONCEPTS)]`."""
    labels = np.zeros(len(CONCEPTS), dtype=bool)
    for thing in scene.distractors:
        named: list[Concept] = [("distractor", thing.look, thing.shape), ("distractor shape", thing.shape)]
        named.append(("texture", thing.look))
        for place in _sides(thing):
            named += [("distractor place", thing.shape, place), ("texture place", thing.look, place)]
        for concept in named:
            labels[_INDEX[concept]] = True
    for thing in scene.objects:
        held: list[Concept] = [("pair", thing.look, thing.shape), ("color", thing.look), ("shape", thing.shape)]
        for place in _sides(thing):
            held += [("shape place", thing.shape, place), ("color place", thing.look, place)]
        if thing.letter:
            held += [("letter", thing.letter), ("shape letter", thing.shape, thing.letter)]
            held.append(("color letter", thing.look, thing.letter))
        for concept in held:
            labels[_INDEX[concept]] = True
    return labels


def _as_question(name: str, kinds: tuple[str, ...], rng: np.random.Generator) -> str:
    kind = pick(kinds, rng)
    if kind in ("existence", "count"):
        name = with_article(name) if kind == "existence" else plural(name)
    return pick(TEMPLATES[kind], rng).format(name)


def concept_text(concept: Concept, rng: np.random.Generator) -> str:
    """A random wording of a concept; about half of the wordings are questions that name it."""
    kind, *words = concept
    is_question = rng.random() < 0.5
    if kind in ("pair", "color", "shape"):
        name = words[0] + " object" if kind == "color" else " ".join(words)
        if is_question:
            kinds = _QUESTIONS_ON_ANY + {"pair": (), "color": ("shape", "count"), "shape": ("color", "count")}[kind]
            return _as_question(name, kinds, rng)
        return pick([with_article(name), f"the {name}", f"a picture of {with_article(name)}", name], rng)
    if kind == "letter":
        return pick([f"the letter {words[0]}", f"an object with the letter {words[0]}"], rng)
    if kind.endswith("letter"):
        name = words[0] + " object" if kind == "color letter" else words[0]
        return pick(
            [f"{with_article(name)} with the letter {words[1]}", f"the letter {words[1]} on {with_article(name)}"], rng
        )
    if kind.endswith("place"):
        name = words[0] + {"color place": " object", "texture place": " thing"}.get(kind, "")
        side = f"on the {words[1]}" if words[1] in SIDES[:2] else f"at the {words[1]}"
        return pick([f"{with_article(name)} {side}", f"the {name} is {side}"], rng)
    name = f"{words[0]} thing" if kind == "texture" else " ".join(words)
    return pick([f"a {name}", f"a picture of a {name}", f"a large {name}"], rng)


def composite_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption or relation question that names several things of the image, distractors first."""
    things = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    if len(things) >= 2 and rng.random() < (0.15 if scene.distractors else 0.4):
        first, second = things[0], things[1]
        if rng.random() < 0.5:
            relation = pick(RELATIONS, rng)
            value = {
                "left of": second.x - first.x,
                "right of": first.x - second.x,
                "above": second.y - first.y,
                "below": first.y - second.y,
            }[relation]
            if value < 0:
                first, second = second, first
            link = f"to the {relation}" if relation.endswith("of") else relation
            return f"{with_article(first.name)} {link} {with_article(second.name)}"
        return _as_pair_question(first, second, rng)
    if scene.distractors:
        main = [f"{thing.name} {_at(thing, rng)}" for thing in scene.distractors]
        names = main + [thing.name for thing in things[: int(rng.integers(3))]]
    else:
        names = [_with_detail(thing, rng) for thing in things[:4]]
    return "a picture of " + ", ".join(with_article(name) for name in names)


def _as_pair_question(first: Thing, second: Thing, rng: np.random.Generator) -> str:
    short = rng.random() < 0.5
    names = (first.shape, second.shape) if short else (first.name, second.name)
    return pick([text for relation in RELATIONS for text in TEMPLATES[relation]], rng).format(*names)


def _with_detail(thing: Thing, rng: np.random.Generator) -> str:
    if thing.letter and rng.random() < 0.4:
        return f"{thing.name} with the letter {thing.letter}"
    return f"{thing.name} {_at(thing, rng)}" if rng.random() < 0.3 else thing.name


def _at(thing: Thing, rng: np.random.Generator) -> str:
    horizontal, vertical = _sides(thing)
    return f"on the {horizontal}" if rng.random() < 0.5 else f"at the {vertical}"
