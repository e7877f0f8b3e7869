"""Properties of every pruner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TextFeatures, TokenOrigin, TowerFeatures
from encoder_service.pruners.desap import compared_tokens
from encoder_service.pruners.holov import crop_sizes, default_crops
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import (
    ALL_OUTPUTS,
    CLS_HIDDEN,
    SALIENCY_LAST,
    SALIENCY_ONE_HEAD,
    SALIENCY_SECOND_LAST,
    OutputKind,
    TowerOutput,
)
from fovea.parameters import InvalidParameter

ROWS, COLUMNS, WIDTH, JOINT = 4, 5, 12, 6
NUM_PATCHES = ROWS * COLUMNS
BOS, EOS = "<", ">"
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
    {"text_filter": "eot_attention", "text_filter_over": 40},
    {"text_rows": "words"},
    {"decouple_layer": -2},
    {"decouple_layer": -2, "similarity": "vanilla"},
    {"decouple_layer": -2, "attn_variant": "vvv", "merge_metric": "decoupled"},
]
# Parameters with which a method keeps exactly its budget.
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *(("desap", params) for params in SWITCHES),
    *(("desap", {"task_share": share}) for share in (0.0, 0.3, 1.0)),
    *(("visionzip", {"context_share": share}) for share in (0.0, 0.5, 1.0)),
    *(("holov", {"crops": crops}) for crops in (1, 3, NUM_PATCHES, 1000)),
    ("holov", {"crops": 7, "fidelity": True}),
    ("random", {"seed": 2**31 - 1}),
    *(("cdpruner", {"relevance_weight": weight}) for weight in (0.0, 0.5)),
    *(("cdpruner", {"relevance_sign": sign}) for sign in ("negative", "positive")),
]


def vision_features(seed: int) -> TowerFeatures:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    outputs = {}
    for output in sorted(ALL_OUTPUTS):
        if output.has_cls:
            outputs[output] = rand(1 + NUM_PATCHES, JOINT)
        elif output.kind.startswith("saliency"):
            outputs[output] = rand(NUM_PATCHES).softmax(0)
        elif output == CLS_HIDDEN:
            outputs[output] = rand(WIDTH)
        else:
            outputs[output] = rand(NUM_PATCHES, WIDTH)
    return TowerFeatures(rand(NUM_PATCHES, WIDTH), (ROWS, COLUMNS), outputs)


def text_features(seed: int, num_tokens: int = 7) -> TextFeatures:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_tokens, JOINT, generator=generator)
    is_word = torch.ones(num_tokens, dtype=torch.bool)
    is_word[0] = is_word[-1] = False
    return TextFeatures(tokens, tokens[-1:], is_word, torch.rand(num_tokens, generator=generator))


def mapped(vision: TowerFeatures, order: torch.Tensor) -> TowerFeatures:
    """The same features with the patches in another order."""
    outputs = dict(vision.outputs)
    for output, vectors in vision.outputs.items():
        if output.has_cls:
            outputs[output] = torch.cat([vectors[:1], vectors[1:][order]])
        elif output != CLS_HIDDEN:
            outputs[output] = vectors[order]
    return TowerFeatures(vision.hidden[order], vision.grid, outputs)


@dataclass(frozen=True)
class Layer:
    """Layer with random attention and values, restricted to the patches kept so far."""

    index: int
    num_layers: int
    attention: torch.Tensor
    all_values: torch.Tensor
    kept_in_tower: torch.Tensor

    def cls_attention(self) -> torch.Tensor:
        return self.attention[:, self.kept_in_tower]

    def values(self) -> torch.Tensor:
        return torch.cat([self.all_values[:, :1], self.all_values[:, 1:][:, self.kept_in_tower]], dim=1)


def tower_features(
    in_tower: InTowerPruner, seed: int, *, order: torch.Tensor | None = None, flat: bool = False
) -> TowerFeatures:
    """Features after six layers pruned by `in_tower`, with the patches in another order or all zero (`flat`)."""
    generator, num_layers = torch.Generator().manual_seed(seed), 6
    order = torch.arange(NUM_PATCHES) if order is None else order
    kept_in_tower, hook = torch.arange(NUM_PATCHES), in_tower.new_hook()
    for index in range(num_layers - 1):
        # Double precision, so that another order of summing cannot change a choice.
        attention = torch.randn(2, NUM_PATCHES, generator=generator, dtype=torch.float64).softmax(1)[:, order]
        values = torch.randn(2, 1 + NUM_PATCHES, 3, generator=generator, dtype=torch.float64)
        values = torch.cat([values[:, :1], values[:, 1:][:, order]], dim=1)
        if flat:
            attention, values = torch.zeros_like(attention), torch.zeros_like(values)
        kept = hook.after_layer(Layer(index, num_layers, attention, values, kept_in_tower))
        kept_in_tower = kept_in_tower if kept is None else kept_in_tower[kept]
    hidden = torch.zeros(NUM_PATCHES, WIDTH) if flat else vision_features(seed).hidden[order]
    return TowerFeatures(hidden[kept_in_tower], (ROWS, COLUMNS), {}, kept_in_tower)


def run(
    name: str,
    keep: int,
    seed: int,
    params: dict[str, Any] | None = None,
    *,
    has_text: bool = True,
    order: torch.Tensor | None = None,
    flat: bool = False,
) -> PrunedTokens:
    """Result of a pruner on random features."""
    bound = PRUNERS[name].bind(params or {})
    if bound.requirements.in_tower is not None and keep < NUM_PATCHES:
        vision = tower_features(bound.requirements.in_tower(keep), seed, order=order, flat=flat)
    else:
        vision = vision_features(seed) if order is None else mapped(vision_features(seed), order)
        if flat:
            outputs = {output: torch.zeros_like(vectors) for output, vectors in vision.outputs.items()}
            vision = TowerFeatures(torch.zeros(NUM_PATCHES, WIDTH), (ROWS, COLUMNS), outputs)
    return bound.prune(PrunerInput(vision, keep, text=text_features(seed) if has_text else None, seeds=(seed,)))


def patches(result: PrunedTokens) -> list[int]:
    """Origins that are patches."""
    return [origin for origin in result.origins.tolist() if origin >= 0]


@pytest.mark.parametrize("name", CHOOSING)
@given(keep=st.integers(1, NUM_PATCHES), seed=st.integers(0, 2**40), has_text=st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_pruner_keeps_exactly_its_budget_and_assigns_each_patch(
    name: str, keep: int, seed: int, has_text: bool
) -> None:
    result = run(name, keep, seed, has_text=has_text)
    assert result.features.shape == (keep, WIDTH)
    assert result.features.isfinite().all()
    assert len(result.origins) == keep
    kept = patches(result)
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(range(NUM_PATCHES))
    assert result.cluster_of_patch.shape == (NUM_PATCHES,)
    assert set(result.cluster_of_patch.tolist()) <= set(range(-1, keep))
    for token, origin in enumerate(result.origins.tolist()):
        if origin >= 0:
            assert result.cluster_of_patch[origin] == token
    again = run(name, keep, seed, has_text=has_text)
    assert torch.equal(result.features, again.features)
    assert torch.equal(result.origins, again.origins)


@pytest.mark.parametrize(("name", "params"), SETTINGS, ids=[f"{name}-{params}" for name, params in SETTINGS])
@given(keep=st.integers(1, NUM_PATCHES), seed=st.integers(0, 2**40), flat=st.booleans())
@settings(max_examples=15, deadline=None)
def test_no_parameter_breaks_a_budget_or_produces_nan(
    name: str, params: dict[str, Any], keep: int, seed: int, flat: bool
) -> None:
    result = run(name, keep, seed, params, flat=flat)
    assert result.features.shape == (keep, WIDTH)
    assert result.features.isfinite().all()
    assert len(set(patches(result))) == len(patches(result))
    assert set(patches(result)) <= set(range(NUM_PATCHES))
    assert torch.equal(result.features, run(name, keep, seed, params, flat=flat).features)


def by_attention_of(output: TowerOutput, seed: int) -> list[int]:
    """All patches by decreasing attention."""
    return vision_features(seed).outputs[output].argsort(descending=True).tolist()


@pytest.mark.parametrize("name", CHOOSING)
@given(keep=st.integers(1, NUM_PATCHES - 1), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_tokens_come_in_the_order_of_the_table(name: str, keep: int, seed: int) -> None:
    kept = run(name, keep, seed).origins.tolist()
    match name:
        case "visionzip":
            num_context = math.floor(keep * 0.15625 + 0.5)
            dominant, targets = kept[1 : keep - num_context], kept[keep - num_context :]
            assert (kept[0], dominant, targets) == (TokenOrigin.CLS, sorted(dominant), sorted(targets))
        case "prumerge":
            assert kept == [*by_attention_of(SALIENCY_ONE_HEAD, seed)[: keep - 1], TokenOrigin.SUM]
        case "prumerge_plus":
            top, sampled = kept[: keep // 2], kept[keep // 2 : -1]
            assert top == by_attention_of(SALIENCY_ONE_HEAD, seed)[: keep // 2]
            assert (sampled, kept[-1]) == (sorted(sampled), TokenOrigin.SUM)
        case "holov":
            sizes = crop_sizes(NUM_PATCHES, default_crops(NUM_PATCHES, keep))
            attention = vision_features(seed).outputs[SALIENCY_SECOND_LAST]
            start, want = 0, []
            for size in sizes:
                crop = sorted(set(kept) & set(range(start, start + size)))
                want += crop if len(crop) == size else sorted(crop, key=lambda i: -attention[i])
                start += size
            assert kept == want
        case _:
            assert kept == sorted(kept)


@pytest.mark.parametrize("name", ["desap", "cls", "hired", "visionzip", "prumerge", "prumerge_plus", "holov"])
@given(keep=st.integers(1, NUM_PATCHES - 1), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_of_equally_attended_patches_the_first_are_kept(name: str, keep: int, seed: int) -> None:
    """Ties are resolved as if each patch had slightly less attention than the one before it."""
    vision = vision_features(seed)
    # Multiples of 1/32, so that equal means of several patches are equal in floating point too.
    levels = torch.randint(1, 4, (NUM_PATCHES,), generator=torch.Generator().manual_seed(seed)).double() / 32
    decrement = 1e-12 * torch.arange(NUM_PATCHES, dtype=torch.float64)
    kept = []
    for attention in (levels, levels - decrement):
        outputs = {
            output: attention if output.kind.startswith("saliency") else vectors.double()
            for output, vectors in vision.outputs.items()
        }
        inputs = PrunerInput(TowerFeatures(vision.hidden.double(), vision.grid, outputs), keep)
        kept.append(PRUNERS[name].bind({}).prune(inputs).origins.tolist())
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["desap", "cls", "uniform", "random"])
@given(keep=st.integers(1, NUM_PATCHES), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_merging_by_means_preserves_the_sum(name: str, keep: int, seed: int) -> None:
    result, before = run(name, keep, seed), vision_features(seed).hidden
    assert result.origins.tolist() == sorted(result.origins.tolist())
    members = torch.bincount(result.cluster_of_patch, minlength=keep)
    torch.testing.assert_close((members[:, None] * result.features).sum(0), before.sum(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["hired", "flowcut", "holov", "cdpruner"])
@given(keep=st.integers(1, NUM_PATCHES), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_pruners_that_merge_nothing_return_features_unchanged(name: str, keep: int, seed: int) -> None:
    result = run(name, keep, seed)
    assert torch.equal(result.features, vision_features(seed).hidden[result.origins])
    assert int((result.cluster_of_patch >= 0).sum()) == keep


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_a_pruner_is_pure(name: str) -> None:
    bound, vision = PRUNERS[name].bind({}), vision_features(7)
    if bound.requirements.in_tower is not None:
        vision = tower_features(bound.requirements.in_tower(6), 7)
    before = vision.hidden.clone(), {output: vectors.clone() for output, vectors in vision.outputs.items()}
    bound.prune(PrunerInput(vision, 6, text=text_features(7)))
    assert torch.equal(vision.hidden, before[0])
    for output, vectors in vision.outputs.items():
        assert torch.equal(vectors, before[1][output])


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_the_full_budget_changes_nothing(name: str) -> None:
    result = run(name, NUM_PATCHES, 1)
    assert torch.equal(result.features, vision_features(1).hidden)
    assert result.origins.tolist() == result.cluster_of_patch.tolist() == list(range(NUM_PATCHES))


def test_none_ignores_the_budget() -> None:
    vision = vision_features(1)
    assert torch.equal(PRUNERS["none"].bind({}).prune(PrunerInput(vision, 1)).features, vision.hidden)


# Origins where all scores are equal: the first patches, since ties go to the smaller index.
FIRST_PATCHES = {
    "desap": lambda keep: list(range(keep)),
    "cls": lambda keep: list(range(keep)),
    "hired": lambda keep: list(range(keep)),
    "flowcut": lambda keep: list(range(keep)),
    "fovea": lambda keep: list(range(keep)),
    "prumerge": lambda keep: [*range(keep - 1), -2],
    "cdpruner": lambda keep: list(range(keep)),
}


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("keep", [1, 2, 7, NUM_PATCHES - 1])
def test_an_image_of_one_colour_gives_finite_features(name: str, keep: int) -> None:
    result = run(name, keep, 0, flat=True)
    assert result.features.isfinite().all()
    assert len(result.origins) == keep
    if name in FIRST_PATCHES:
        assert result.origins.tolist() == FIRST_PATCHES[name](keep)


@pytest.mark.parametrize("params", SWITCHES, ids=[str(item) for item in SWITCHES])
@pytest.mark.parametrize("has_text", [True, False])
def test_desap_reads_only_the_outputs_that_it_requires(params: dict[str, Any], has_text: bool) -> None:
    bound = PRUNERS["desap"].bind(params)
    vision = vision_features(3)
    required_only = TowerFeatures(
        vision.hidden,
        vision.grid,
        {output: vision.outputs[output] for output in sorted(bound.requirements.outputs)},
    )
    result = bound.prune(PrunerInput(required_only, 6, text=text_features(3) if has_text else None))
    assert len(result.origins) == 6
    assert (result.task_map is not None) == has_text


def test_the_default_requires_two_tower_outputs() -> None:
    assert PRUNERS["desap"].bind({}).requirements.outputs == {TowerOutput(OutputKind.JOINT, qkv="qqv"), SALIENCY_LAST}
    assert PRUNERS["none"].bind({}).requirements.outputs == frozenset()


@pytest.mark.parametrize("seed", range(5))
def test_desap_at_the_ends_of_task_share_follows_one_map(seed: int) -> None:
    inputs = PrunerInput(vision_features(seed), 6, text=text_features(seed))
    by_task = PRUNERS["desap"].bind({"task_share": 1.0}).prune(inputs)
    by_saliency = PRUNERS["desap"].bind({"task_share": 0.0}).prune(inputs)
    assert by_task.task_map is not None
    assert by_task.origins.tolist() == sorted(by_task.task_map.argsort(descending=True)[:6].tolist())
    saliency = inputs.vision.outputs[SALIENCY_LAST]
    assert by_saliency.origins.tolist() == sorted(saliency.argsort(descending=True)[:6].tolist())


def test_desap_without_a_question_is_saliency_alone() -> None:
    inputs = PrunerInput(vision_features(2), 6)
    desap, cls = PRUNERS["desap"].bind({}).prune(inputs), PRUNERS["cls"].bind({}).prune(inputs)
    assert desap.origins.tolist() == cls.origins.tolist()
    assert desap.task_map is None


def two_windows(words: tuple[int, int]) -> TextFeatures:
    """A text of two windows with the given numbers of words."""
    labels = [BOS, *"w" * words[0], EOS, BOS, *"w" * words[1], EOS]
    generator = torch.Generator().manual_seed(sum(words))
    tokens = torch.randn(len(labels), JOINT, generator=generator)
    is_word = torch.tensor([label == "w" for label in labels])
    ends = torch.tensor([label == EOS for label in labels])
    return TextFeatures(tokens, tokens[ends], is_word, torch.rand(len(labels), generator=generator))


@given(words=st.tuples(st.integers(1, 5), st.integers(1, 5)))
@settings(max_examples=20, deadline=None)
def test_bos_and_eos_of_every_window_can_be_left_out(words: tuple[int, int]) -> None:
    text = two_windows(words)

    every = range(len(text.tokens))

    def compared(text_rows: str) -> list[int]:
        params = PRUNERS["desap"].parameters(text_rows=text_rows)
        is_compared = compared_tokens(text, params)
        return list(every) if is_compared is None else is_compared.nonzero().flatten().tolist()

    bos, eos = {0, words[0] + 2}, {words[0] + 1, len(text.tokens) - 1}
    assert compared("all") == list(every)
    assert compared("without_bos") == [i for i in every if i not in bos]
    assert compared("without_eos") == [i for i in every if i not in eos]
    assert compared("words") == [i for i in every if i not in bos | eos]


@pytest.mark.parametrize("text_rows", ["without_bos", "without_eos", "words"])
def test_the_map_equals_that_of_a_text_without_the_tokens_left_out(text_rows: str) -> None:
    vision, text = vision_features(5), text_features(5)
    dropped = {"without_bos": [0], "without_eos": [6], "words": [0, 6]}[text_rows]
    remaining = [i for i in range(7) if i not in dropped]
    shorter = TextFeatures(text.tokens[remaining], text.eos, text.is_word[remaining])
    maps = [
        PRUNERS["desap"].bind(params).prune(PrunerInput(vision, 6, text=question)).task_map
        for params, question in (({"text_rows": text_rows}, text), ({}, shorter))
    ]
    assert maps[0] is not None
    assert maps[1] is not None
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("over", "filtered"), [(0, True), (6, True), (7, False), (40, False)])
def test_the_text_filter_applies_above_its_length(over: int, filtered: bool) -> None:
    inputs = PrunerInput(vision_features(6), 6, text=text_features(6))  # seven tokens
    by_name = {
        name: PRUNERS["desap"].bind(params).prune(inputs).task_map
        for name, params in {
            "asked": {"text_filter": "eot_attention", "text_filter_over": over, "text_rows": "words"},
            "filtered": {"text_filter": "eot_attention"},
            "whole": {"text_rows": "words"},
        }.items()
    }
    asked, expected = by_name["asked"], by_name["filtered" if filtered else "whole"]
    other = by_name["whole" if filtered else "filtered"]
    assert asked is not None
    assert expected is not None
    assert other is not None
    assert torch.equal(asked, expected)
    assert not torch.equal(asked, other)


def test_the_second_last_layer_gives_another_map() -> None:
    inputs = PrunerInput(vision_features(7), 6, text=text_features(7))
    last, second_last = (PRUNERS["desap"].bind({"decouple_layer": layer}).prune(inputs).task_map for layer in (-1, -2))
    moved = dict(inputs.vision.outputs) | {
        TowerOutput(OutputKind.JOINT, qkv="qqv"): inputs.vision.outputs[
            TowerOutput(OutputKind.JOINT, layer=-2, qkv="qqv")
        ]
    }
    want = (
        PRUNERS["desap"]
        .bind({})
        .prune(PrunerInput(TowerFeatures(inputs.vision.hidden, inputs.vision.grid, moved), 6, text=inputs.text))
    )
    assert last is not None
    assert second_last is not None
    assert want.task_map is not None
    assert torch.equal(second_last, want.task_map)
    assert not torch.equal(second_last, last)


def test_desap_depends_on_the_question() -> None:
    vision = vision_features(4)
    first, second = (PRUNERS["desap"].bind({}).prune(PrunerInput(vision, 6, text=text_features(i))) for i in (10, 11))
    assert first.origins.tolist() != second.origins.tolist()


@pytest.mark.parametrize("name", ["desap", "cls", "hired", "flowcut", "prumerge", "cdpruner"])
@given(seed=st.integers(0, 10_000), keep=st.integers(1, NUM_PATCHES - 1))
@settings(max_examples=30, deadline=None)
def test_the_choice_does_not_depend_on_patch_order(name: str, seed: int, keep: int) -> None:
    order = torch.randperm(NUM_PATCHES, generator=torch.Generator().manual_seed(seed))
    straight, moved = run(name, keep, seed), run(name, keep, seed, order=order)
    assert {int(order[i]) for i in patches(moved)} == set(patches(straight))
    if name == "prumerge":  # ordered by attention, so its tokens keep their order
        torch.testing.assert_close(moved.features[:-1], straight.features[:-1], atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 10_000), keep=st.integers(2, NUM_PATCHES - 1))
@settings(max_examples=30, deadline=None)
def test_what_visionzip_and_prumerge_plus_choose_by_attention_does_not_depend_on_patch_order(
    seed: int, keep: int
) -> None:
    """Their context targets and their even sample depend on the order of patches."""
    order = torch.randperm(NUM_PATCHES, generator=torch.Generator().manual_seed(seed))
    for name, chosen in (
        ("visionzip", slice(1, keep - math.floor(keep * 0.15625 + 0.5))),
        ("prumerge_plus", slice(keep // 2)),
    ):
        straight, moved = run(name, keep, seed), run(name, keep, seed, order=order)
        assert set(order[moved.origins[chosen]].tolist()) == set(straight.origins[chosen].tolist())


def test_random_depends_on_image_and_seed_alone() -> None:
    def kept(image: int, seed: int) -> list[int]:
        inputs = PrunerInput(vision_features(0), 6, seeds=(image,))
        return PRUNERS["random"].bind({"seed": seed}).prune(inputs).origins.tolist()

    assert kept(1, 0) == kept(1, 0)
    assert len({tuple(kept(image, seed)) for image, seed in ((1, 0), (1, 5), (2**61, 0))}) == 3


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
        ("desap", {"decouple_layer": 0}, "-1 or -2"),
        ("desap", {"text_rows": "none"}, "all, without_bos, without_eos or words"),
        ("desap", {"text_filter_over": -1}, "0 to 1000000"),
        ("desap", {"fcma_lambda": math.nan}, "0 to 1000"),
        ("fovea", {"reach": 0}, "0.1 to 100; how far a token stands"),
        ("fovea", {"task_share": 0.5}, "accepted: question_share, breadth_share, reach"),
        ("cdpruner", {"relevance_weight": 1.1}, "0 to 1; share of the kernel"),
        ("cdpruner", {"relevance_sign": "minus"}, "auto, negative or positive"),
        ("random", {"seed": 0.5}, "a whole number"),
        ("none", {"seed": 1}, "accepted: none"),
        ("visionzip", {"context_share": -0.1}, "0 to 1; share of the budget for context tokens"),
        ("prumerge", {"fidelity": True}, "no parameter 'fidelity'; accepted: adaptive"),
        ("prumerge_plus", {"fidelity": "yes"}, "true or false"),
        ("holov", {"crops": 0}, "1 to 100000 or null"),
        ("holov", {"crops": 2.5}, "1 to 100000 or null"),
        ("flowcut", {"layers": [1]}, "no parameter 'layers'; accepted: none"),
    ],
)
def test_the_error_for_a_parameter_names_what_is_accepted(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        PRUNERS[name].bind(params)


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_every_pruner_describes_itself_and_accepts_its_own_defaults(name: str) -> None:
    pruner = PRUNERS[name]
    assert pruner.summary.endswith(".")
    described = pruner.spec.parameters
    assert all(item.name and item.description for item in described)
    pruner.bind({item.name: item.default for item in described})
