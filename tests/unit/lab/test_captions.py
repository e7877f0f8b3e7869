"""Concepts and captions of CLIP's training hold for their images."""

from __future__ import annotations

import numpy as np

from lab.captions import CONCEPTS, composite_caption, concept_labels, concept_text, concept_weights
from lab.scenes import sample_scene


def test_labels_agree_with_the_scene() -> None:
    scene = sample_scene("crowded", 3)
    held = {concept for concept, label in zip(CONCEPTS, concept_labels(scene), strict=True) if label}
    assert {c[1:] for c in held if c[0] == "pair"} == {(t.look, t.shape) for t in scene.objects}
    assert {c[1] for c in held if c[0] == "letter"} == {t.letter for t in scene.objects if t.letter}
    assert {c[1:] for c in held if c[0] == "distractor"} == {(t.look, t.shape) for t in scene.distractors}


def test_every_concept_has_words() -> None:
    rng = np.random.default_rng(0)
    for concept in CONCEPTS:
        text = concept_text(concept, rng)
        assert all(word in text for word in concept[1:])


def test_crowded_captions_name_every_distractor_first_unless_they_relate_two_objects() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene("crowded", 5)
    for _ in range(20):
        caption = composite_caption(scene, rng)
        if caption.startswith("a picture of"):
            assert all(thing.name in caption for thing in scene.distractors)


def test_distractors_weigh_more_in_crowded_images() -> None:
    easy, crowded = concept_weights(np.array([False, True]))
    pair, distractor = CONCEPTS.index(("pair", "red", "star")), CONCEPTS.index(("distractor", "striped", "gear"))
    assert easy[pair] == 1
    assert crowded[pair] < easy[pair] < crowded[distractor]
