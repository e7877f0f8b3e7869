"""Questions with one right answer each, balanced answers, and scores."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lab.question_pool import extra_questions
from lab.questions import (
    GROUPS,
    Question,
    ask,
    candidates,
    describe,
    evaluation_questions,
    score,
    unique_names,
)
from lab.scenes import FIRST_EVALUATION_SEED, Scene, Thing, sample_scene

RED_STAR = Thing("star", "red", 30, 40, 24, "K")
BLUE_STAR = Thing("star", "blue", 110, 40, 24)
RED_RING = Thing("ring", "red", 60, 120, 36)
FLOWER = Thing("flower", "striped", 110, 110, 40, distractor=True)
SCENE = Scene("crowded", 0, "noise", (RED_STAR, BLUE_STAR, RED_RING, FLOWER))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def facts(group: str) -> set[tuple[str, tuple[str, ...], str]]:
    return set(candidates(SCENE, group, rng()))  # type: ignore[arg-type]


def test_names_fit_one_object_only() -> None:
    names = {name for name, _ in unique_names(SCENE)}
    assert names == {"red star", "blue object", "blue star", "ring", "red ring"}


def test_exact_answers_of_a_known_scene() -> None:
    assert facts("color") == {("color", ("ring",), "red")}
    assert facts("shape") == {("shape", ("blue object",), "star")}
    assert facts("reading") == {("reading", ("red star",), "K")}
    assert ("count", ("stars",), "2") in facts("count")
    assert ("count", ("red objects",), "2") in facts("count")
    assert ("count", ("circles",), "0") in facts("count")
    assert ("existence", ("a blue ring",), "no") in facts("existence")
    assert ("existence", ("a red ring",), "yes") in facts("existence")
    assert ("horizontal", ("blue star",), "right") in facts("side")
    assert ("vertical", ("ring",), "bottom") in facts("side")
    assert ("above", ("red star", "ring"), "yes") in facts("relation")
    assert ("left of", ("blue star", "red star"), "no") in facts("relation")
    assert describe(SCENE) == "red star, blue star, red ring, striped flower"


def test_ties_are_never_asked() -> None:
    assert not any(
        relation in ("above", "below") and "ring" not in names[0] + names[1] for relation, names, _ in facts("relation")
    )


def test_distractors_are_never_asked_about() -> None:
    for seed in range(20):
        scene = sample_scene("crowded", seed)
        words = {word for thing in scene.distractors for word in (thing.shape, thing.look)}
        for group in GROUPS[:-1]:
            for _, names, answer in candidates(scene, group, rng()):
                assert not words & set(" ".join((*names, answer)).split())


def test_hard_negatives_hold_both_halves() -> None:
    for seed in range(20):
        scene = sample_scene("easy", seed)
        present = {thing.name for thing in scene.objects}
        looks, shapes = {t.look for t in scene.objects}, {t.shape for t in scene.objects}
        for _, (name,), answer in candidates(scene, "existence", rng()):
            _, look, shape = name.split()
            assert (f"{look} {shape}" in present) == (answer == "yes")
            assert answer == "yes" or look in looks or shape in shapes


@pytest.mark.parametrize("split", ["easy", "crowded"])
def test_evaluation_answers_are_balanced(split: str) -> None:
    questions = evaluation_questions(split, 0, 60)  # type: ignore[arg-type]
    assert all(q.scene.seed >= FIRST_EVALUATION_SEED for q in questions)
    answers = {group: Counter(q.answer for q in questions if q.group == group) for group in GROUPS}
    for group in ("existence", "relation"):
        assert abs(answers[group]["yes"] - answers[group]["no"]) <= 2
    assert min(answers["side"].values()) >= 10
    assert len(answers["color"]) == len(answers["shape"]) == len(answers["reading"]) == 8
    assert all(answers["count"][value] >= 6 for value in "01234")


def test_evaluation_questions_are_deterministic() -> None:
    assert evaluation_questions("easy", 3, 5) == evaluation_questions("easy", 3, 5)
    assert evaluation_questions("easy", 3, 5) != evaluation_questions("easy", 4, 5)


def test_score_is_exact_up_to_case_and_punctuation() -> None:
    question = Question(SCENE, "What color is the ring?", "red", "color")
    assert score(question, " Red. ") == 1.0
    assert score(question, "red ring") == 0.0
    assert score(question, "") == 0.0


def test_caption_score_is_the_share_named_right() -> None:
    question = ask(SCENE, "caption", rng())
    assert question is not None
    assert score(question, question.answer) == 1.0
    assert score(question, "red star, blue star") == pytest.approx(2 * 2 / 6)
    assert score(question, "red star, red star, red star, red star") == pytest.approx(2 * 1 / 8)
    assert score(question, "nothing") == 0.0


def test_extra_questions_of_training_say_where_things_are() -> None:
    by_text = {q.text: q.answer for seed in range(40) for q in extra_questions(SCENE, np.random.default_rng(seed))}
    assert by_text["Where is the red star?"] == "2 2"
    assert by_text["Where is the ring?"] == "3 6"
    assert by_text["Is the blue star left or right of the red star?"] == "right"
    assert by_text["Is the red star above or below the ring?"] == "above"
    assert by_text["How many red objects are there?"] == "2"
