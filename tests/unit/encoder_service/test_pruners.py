"""What holds for every pruner."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput, TextFeatures, View, VisionFeatures
from encoder_service.pruners.parameters import InvalidParameter

ROWS, COLUMNS, WIDTH, JOINT = 4, 5, 12, 6
NUM_PATCHES = ROWS * COLUMNS
CHOOSING = sorted(PRUNERS.keys() - {"none"})
SWITCHES: list[dict[str, Any]] = [
    {},
    *({"attn_variant": value} for value in ("qkv", "kkv", "vvv")),
    {"similarity": "vanilla"},
    {"fcma": False},
    {"fcma_normalize": False},
    {"fcma_cosines": "signed"},
    {"fcma_clamp_min": 0.0},
    {"cls_layer": -2},
    {"merge_metric": "key"},
    {"merge_metric": "decoupled"},
    {"text_filter": "eot_attention"},
]


def vision_features(seed: int) -> VisionFeatures:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    views = {}
    for view in View:
        if view.startswith("joint"):
            views[view] = rand(1 + NUM_PATCHES, JOINT)
        elif view.startswith("saliency"):
            views[view] = rand(NUM_PATCHES).softmax(0)
        else:
            views[view] = rand(NUM_PATCHES, WIDTH)
    return VisionFeatures(rand(NUM_PATCHES, WIDTH), (ROWS, COLUMNS), views)


def text_features(seed: int, num_tokens: int = 7) -> TextFeatures:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_tokens, JOINT, generator=generator)
    is_word = torch.ones(num_tokens, dtype=torch.bool)
    is_word[0] = is_word[-1] = False
    return TextFeatures(tokens, tokens[-1:], is_word, torch.rand(num_tokens, generator=generator))


def mapped(vision: VisionFeatures, order: torch.Tensor) -> VisionFeatures:
    """The same picture with its patches in another order."""
    views = {
        view: torch.cat([rows[:1], rows[1:][order]]) if view.startswith("joint") else rows[order]
        for view, rows in vision.views.items()
    }
    return VisionFeatures(vision.hidden[order], vision.grid, views)


@pytest.mark.parametrize("name", CHOOSING)
@given(keep=st.integers(1, NUM_PATCHES), seed=st.integers(0, 2**40), has_text=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_pruner_keeps_exactly_its_budget_and_loses_no_mass(
    name: str, keep: int, seed: int, has_text: bool
) -> None:
    vision = vision_features(seed)
    before = vision.hidden.clone()
    job = PrunerInput(vision, keep, text=text_features(seed) if has_text else None, seed=seed)
    result = PRUNERS[name].bind({}).prune(job)
    kept = result.kept_index.tolist()
    assert len(set(kept)) == len(kept) == keep
    assert kept == sorted(kept)
    assert set(kept) <= set(range(NUM_PATCHES))
    assert result.features.shape == (keep, WIDTH)
    assert result.merged_into[result.kept_index].tolist() == list(range(keep))
    members = torch.bincount(result.merged_into, minlength=keep)
    torch.testing.assert_close((members[:, None] * result.features).sum(0), before.sum(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vision.hidden, before, atol=0, rtol=0)  # a pruner is pure
    again = PRUNERS[name].bind({}).prune(job)
    assert torch.equal(result.features, again.features)


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_the_full_budget_changes_nothing(name: str) -> None:
    vision = vision_features(1)
    result = PRUNERS[name].bind({}).prune(PrunerInput(vision, NUM_PATCHES, text=text_features(1)))
    assert torch.equal(result.features, vision.hidden)
    assert result.kept_index.tolist() == result.merged_into.tolist() == list(range(NUM_PATCHES))


def test_none_ignores_the_budget() -> None:
    vision = vision_features(1)
    assert torch.equal(PRUNERS["none"].bind({}).prune(PrunerInput(vision, 1)).features, vision.hidden)


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("keep", [1, 7, NUM_PATCHES])
def test_a_picture_of_one_colour_gives_numbers(name: str, keep: int) -> None:
    flat = {view: torch.zeros_like(rows) for view, rows in vision_features(0).views.items()}
    vision = VisionFeatures(torch.zeros(NUM_PATCHES, WIDTH), (ROWS, COLUMNS), flat)
    result = PRUNERS[name].bind({}).prune(PrunerInput(vision, keep, text=text_features(0)))
    assert result.features.isfinite().all()
    assert len(result.kept_index) == keep
    if name != "random":
        assert result.kept_index.tolist() == list(range(keep))  # equal scores go to the smaller index


@pytest.mark.parametrize("params", SWITCHES, ids=[str(item) for item in SWITCHES])
@pytest.mark.parametrize("has_text", [True, False])
def test_desap_reads_only_the_views_that_it_asks_for(params: dict[str, Any], has_text: bool) -> None:
    bound = PRUNERS["desap"].bind(params)
    vision = vision_features(3)
    given_only = VisionFeatures(
        vision.hidden, vision.grid, {view: vision.views[view] for view in sorted(bound.needs.views)}
    )
    result = bound.prune(PrunerInput(given_only, 6, text=text_features(3) if has_text else None))
    assert len(result.kept_index) == 6
    assert (result.task_map is not None) == has_text


def test_the_default_asks_the_tower_for_two_views() -> None:
    assert PRUNERS["desap"].bind({}).needs.views == {View.JOINT_QQV, View.SALIENCY_LAST}
    assert PRUNERS["none"].bind({}).needs.views == frozenset()


@pytest.mark.parametrize("seed", range(5))
def test_desap_at_the_ends_of_task_share_follows_one_map(seed: int) -> None:
    job = PrunerInput(vision_features(seed), 6, text=text_features(seed))
    by_task = PRUNERS["desap"].bind({"task_share": 1.0}).prune(job)
    by_saliency = PRUNERS["desap"].bind({"task_share": 0.0}).prune(job)
    assert by_task.task_map is not None
    assert by_task.kept_index.tolist() == sorted(by_task.task_map.argsort(descending=True)[:6].tolist())
    saliency = job.vision.views[View.SALIENCY_LAST]
    assert by_saliency.kept_index.tolist() == sorted(saliency.argsort(descending=True)[:6].tolist())


def test_desap_without_words_is_saliency_alone() -> None:
    job = PrunerInput(vision_features(2), 6)
    desap, cls = PRUNERS["desap"].bind({}).prune(job), PRUNERS["cls"].bind({}).prune(job)
    assert desap.kept_index.tolist() == cls.kept_index.tolist()
    assert desap.task_map is None


def test_desap_follows_the_question() -> None:
    vision = vision_features(4)
    first, second = (PRUNERS["desap"].bind({}).prune(PrunerInput(vision, 6, text=text_features(i))) for i in (10, 11))
    assert first.kept_index.tolist() != second.kept_index.tolist()


@pytest.mark.parametrize("name", ["desap", "cls"])
@given(seed=st.integers(0, 10_000), keep=st.integers(1, NUM_PATCHES))
@settings(max_examples=30, deadline=None)
def test_the_choice_follows_the_patches_wherever_they_lie(name: str, seed: int, keep: int) -> None:
    vision = vision_features(seed)
    order = torch.randperm(NUM_PATCHES, generator=torch.Generator().manual_seed(seed))
    bound = PRUNERS[name].bind({})
    text = text_features(seed)
    straight = bound.prune(PrunerInput(vision, keep, text=text))
    moved = bound.prune(PrunerInput(mapped(vision, order), keep, text=text))
    assert sorted(order[moved.kept_index].tolist()) == straight.kept_index.tolist()


def test_random_depends_on_picture_and_seed_alone() -> None:
    def kept(picture: int, seed: int) -> list[int]:
        job = PrunerInput(vision_features(0), 6, seed=picture)
        return PRUNERS["random"].bind({"seed": seed}).prune(job).kept_index.tolist()

    assert kept(1, 0) == kept(1, 0)
    assert len({tuple(kept(picture, seed)) for picture, seed in ((1, 0), (1, 5), (2**61, 0))}) == 3


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("desap", {"task_shar": 0.5}, "no parameter 'task_shar'; accepted: task_share, attn_variant"),
        ("desap", {"task_share": 1.5}, "0 to 1"),
        ("desap", {"task_share": "half"}, "0 to 1"),
        ("desap", {"task_share": True}, "0 to 1"),
        ("desap", {"task_share": None}, "0 to 1"),
        ("desap", {"fcma": 1}, "true or false"),
        ("desap", {"attn_variant": "kqv"}, "qqv, qkv, kkv or vvv"),
        ("desap", {"cls_layer": -3}, "-1 or -2"),
        ("desap", {"fcma_lambda": math.nan}, "0 to 1000"),
        ("random", {"seed": 0.5}, "a whole number"),
        ("none", {"seed": 1}, "accepted: none"),
    ],
)
def test_parameters_that_are_not_accepted_say_what_is(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        PRUNERS[name].bind(params)


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_every_pruner_describes_itself_and_accepts_its_own_defaults(name: str) -> None:
    pruner = PRUNERS[name]
    assert pruner.summary.endswith(".")
    described = pruner.describe()
    assert all(item.name and item.description for item in described)
    pruner.bind({item.name: item.default for item in described})
