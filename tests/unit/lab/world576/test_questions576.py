"""Questions have one right answer, which is found again from the scene by other means, and answers are balanced."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

import numpy as np
import pytest

from lab.scenes import FIRST_EVALUATION_SEED
from lab.world576.dialogues import evaluation_dialogues
from lab.world576.kinds import CATEGORIES, CATEGORY, COLORS, DISTRACTORS, KINDS, SIGN, TEXTS, plural
from lab.world576.questions import (
    GROUPS,
    RELATION_MARGIN,
    SIDE_MARGIN,
    TEMPLATES,
    Question,
    evaluation_questions,
    score,
)
from lab.world576.scenes import IMAGE_SIZE, Scene, Thing

SPLITS: list[Literal["easy", "crowded"]] = ["easy", "crowded"]
_SINGULAR = {plural(kind): kind for kind in (*KINDS, SIGN, *CATEGORIES, "object")}


def parse(question: Question) -> tuple[str, list[str]]:
    """Template and names of a question's text."""
    for template, phrasings in TEMPLATES.items():
        for phrasing in phrasings:
            pattern = re.escape(phrasing).replace(r"\{0\}", "(.+)").replace(r"\{1\}", "(.+)")
            found = re.fullmatch(pattern, question.text)
            # "the A left or right of the B" also fits a template of sides, so all names must be things.
            if found and all(matching(question.scene, name) is not None for name in found.groups()):
                return template, list(found.groups())
    raise AssertionError(question.text)


def matching(scene: Scene, name: str) -> list[Thing] | None:
    """Objects that a phrase fits; None where it is no phrase for objects."""
    words = re.sub(r"^(a|an) ", "", name).split()
    color = words.pop(0) if words[0] in COLORS and len(words) > 1 else None
    noun = _SINGULAR.get(words[0], words[0])
    if len(words) != 1 or noun not in (*KINDS, SIGN, *CATEGORIES, "object"):
        return None
    return [
        thing
        for thing in scene.things
        if thing.kind not in DISTRACTORS
        and noun in (thing.kind, CATEGORY.get(thing.kind), "object")
        and color in (None, thing.look)
    ]


def answer(question: Question) -> str:
    """Answer to a question by its text alone, from the things of the scene."""
    template, names = parse(question)
    found = [matching(question.scene, name) or [] for name in names]
    if template == "existence":
        return "yes" if found[0] else "no"
    if template == "count":
        return str(len(found[0]))
    if template == "caption":
        bands = sorted(question.scene.things, key=lambda thing: (thing.y // 84, thing.x, thing.y))
        return ", ".join(f"{thing.look} {thing.kind}".strip() for thing in bands)
    assert all(len(things) == 1 for things in found), question.text  # named without doubt
    thing = found[0][0]
    if template in ("color", "kind", "category", "reading"):
        return {"color": thing.look, "reading": thing.text}.get(template, thing.kind)
    if template == "horizontal":
        assert abs(thing.x - IMAGE_SIZE / 2) >= SIDE_MARGIN
        return "left" if thing.x < IMAGE_SIZE / 2 else "right"
    if template == "vertical":
        assert abs(thing.y - IMAGE_SIZE / 2) >= SIDE_MARGIN
        return "top" if thing.y < IMAGE_SIZE / 2 else "bottom"
    other = found[1][0]
    horizontal = template in ("left of", "right of", "left or right")
    less = thing.x < other.x if horizontal else thing.y < other.y
    assert abs(thing.x - other.x if horizontal else thing.y - other.y) >= RELATION_MARGIN
    if " or " in template:
        low, high = template.split(" or ")
        return low if less else high
    return "yes" if less == (template in ("left of", "above")) else "no"


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_exact(split: Literal["easy", "crowded"]) -> None:
    questions = evaluation_questions(split, 1, 120)
    assert len(questions) > 700
    for question in questions:
        assert answer(question) == question.answer, question.text


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_balanced(split: Literal["easy", "crowded"]) -> None:
    questions = evaluation_questions(split, 0, 260)
    assert all(question.scene.seed >= FIRST_EVALUATION_SEED for question in questions)
    answers = {group: Counter(q.answer for q in questions if q.group == group) for group in GROUPS}
    assert all(sum(counts.values()) > 120 for counts in answers.values())
    assert set(answers["color"]) == set(COLORS)
    assert set(answers["side"]) == {"left", "right", "top", "bottom"}
    assert set(answers["relation"]) == {"yes", "no", "left", "right", "above", "below"}
    for group in ("color", "existence", "side", "relation"):
        assert max(answers[group].values()) - min(answers[group].values()) <= 4
    assert all(answers["count"][value] >= 25 for value in "0123")
    assert max(answers["count"].values()) <= 0.3 * answers["count"].total()
    # Open answers: no single one is worth guessing.
    for group in ("kind", "reading"):
        assert len(answers[group]) >= 60
        assert max(answers[group].values()) <= 0.08 * answers[group].total()
    assert set(answers["reading"]) <= set(TEXTS)


def test_negatives_are_hard() -> None:
    for split in SPLITS:
        for question in evaluation_questions(split, 2, 60, groups=["existence"]):
            if question.answer == "yes":
                continue
            *color, kind = re.sub(r"^(a|an) ", "", parse(question)[1][0]).split()
            objects = question.scene.objects
            if question.scene.tinted:
                assert color[0] in {thing.look for thing in objects} or kind in {thing.kind for thing in objects}
            else:
                assert CATEGORY[kind] in {thing.category for thing in objects}


@pytest.mark.parametrize("split", SPLITS)
def test_the_second_question_of_a_dialogue_is_about_something_else(split: Literal["easy", "crowded"]) -> None:
    dialogues = evaluation_dialogues(split, 0, 80)
    assert len(dialogues) > 70
    for dialogue in dialogues:
        assert dialogue.first.scene is dialogue.second.scene
        assert dialogue.first.subjects
        assert dialogue.second.subjects
        assert not dialogue.first.subjects & dialogue.second.subjects
        for question in (dialogue.first, dialogue.second):
            assert answer(question) == question.answer
    assert len({dialogue.second.group for dialogue in dialogues}) >= 5


def test_questions_follow_from_their_seed() -> None:
    assert evaluation_questions("easy", 3, 5) == evaluation_questions("easy", 3, 5)
    assert evaluation_questions("easy", 3, 5) != evaluation_questions("easy", 4, 5)


def test_scores() -> None:
    scene = Scene(
        "easy", 0, "gradient", True, (Thing("cat", "red", 50, 50, 60), Thing("sign", "blue", 250, 50, 70, text="STOP"))
    )
    reading = Question(scene, "What does the sign say?", "STOP", "reading")
    assert score(reading, " Stop. ") == 1.0
    assert score(reading, "SHOP") == 0.0
    caption = Question(scene, "Describe the picture.", "red cat, blue sign", "caption")
    assert score(caption, "red cat, blue sign") == 1.0
    assert score(caption, "red cat") == pytest.approx(2 / 3)
    assert score(caption, "nothing") == 0.0


def test_plurals() -> None:
    assert plural("red fox") == "red foxes"
    assert plural("mouse") == "mice"
    assert plural("strawberry") == "strawberries"
    assert plural("yellow object") == "yellow objects"


def test_names_are_single_words_and_never_colours() -> None:
    assert all(name.isalpha() and name not in COLORS for name in (*KINDS, *DISTRACTORS, SIGN))
    assert np.unique([len(text) for text in TEXTS]).max() <= 4
