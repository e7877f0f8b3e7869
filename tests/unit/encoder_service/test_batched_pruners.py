"""A pruner treats each tower input of a batch as it would alone, and reads no value back from the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput, TextFeatures, TowerFeatures
from encoder_service.pruners.tower_outputs import ALL_OUTPUTS, OutputKind
from tests.single_features import single_text

GRID = (8, 9)
NUM_PATCHES, WIDTH, JOINT, HEADS = 72, 24, 16, 4
MAX_TOKENS = 20

METHODS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in PRUNERS if name != "flowcut"),
    ("desap", {"text_filter": "eot_attention", "text_rows": "words"}),
    ("desap", {"fcma": False, "merge_metric": "key"}),
    ("desap", {"fcma_cosines": "signed", "fcma_clamp_min": 0.0, "merge_metric": "decoupled", "task_share": 0.3}),
    ("holov", {"fidelity": True}),
    ("holov", {"crops": 7}),
    ("cdpruner", {"relevance_weight": 0.5}),
    ("prumerge", {"adaptive": True}),
    ("prumerge_plus", {"adaptive": True}),
    ("prumerge_plus", {"fidelity": True}),
]
IMAGE_BY_IMAGE = [(name, params) for name, params in METHODS if params.get("adaptive") or params == {"fidelity": True}]


def vision(batch: int, seed: int) -> TowerFeatures:
    """Random features with every output of a tower."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    shapes = {
        OutputKind.JOINT: (1 + NUM_PATCHES, JOINT),
        OutputKind.ATTENTION: (NUM_PATCHES, WIDTH),
        OutputKind.KEYS: (NUM_PATCHES, WIDTH),
        OutputKind.MEAN_KEYS: (NUM_PATCHES, WIDTH // HEADS),
        OutputKind.CLS_HIDDEN: (WIDTH,),
    }
    outputs = {
        output: random(*shapes[output.kind]) if output.kind in shapes else (2 * random(NUM_PATCHES)).softmax(dim=-1)
        for output in sorted(ALL_OUTPUTS)
    }
    return TowerFeatures(random(NUM_PATCHES, WIDTH), GRID, outputs)


def questions(batch: int, seed: int) -> TextFeatures:
    """Questions of different lengths, one of them in two windows."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [[5 + (3 * i + seed) % 12] for i in range(batch)]
    lengths[-1] = [MAX_TOKENS, 6]
    is_token = torch.zeros(batch, 2, MAX_TOKENS, dtype=torch.bool)
    is_word = torch.zeros_like(is_token)
    for i, windows in enumerate(lengths):
        for j, length in enumerate(windows):
            is_token[i, j, :length] = True
            is_word[i, j, 1 : length - 1] = True
    is_token, is_word = is_token.flatten(1), is_word.flatten(1)
    return TextFeatures(
        torch.randn(batch, 2 * MAX_TOKENS, JOINT, generator=generator),
        torch.randn(batch, 2, JOINT, generator=generator),
        is_word,
        torch.rand(batch, 2 * MAX_TOKENS, generator=generator),
        is_token,
        torch.tensor([[True, len(windows) > 1] for windows in lengths]),
    )


def row(features: TowerFeatures, index: int) -> TowerFeatures:
    """A batch of one."""
    outputs = {output: values[index : index + 1] for output, values in features.outputs.items()}
    return TowerFeatures(features.hidden[index : index + 1], features.grid, outputs)


def text_row(texts: TextFeatures, index: int) -> TextFeatures:
    """A batch of one text as it would be alone, without the padding that the others of the batch need."""
    text = single_text(texts, index)
    return TextFeatures(
        text.tokens[None],
        text.eos[None],
        text.is_word[None],
        None if text.eos_attention is None else text.eos_attention[None],
        torch.ones_like(text.is_word)[None],
    )


def in_row(tokens: PrunedTokens, index: int) -> tuple[torch.Tensor, ...]:
    """Features, origins and clusters of one tower input of a batch."""
    count = None if tokens.counts is None else tokens.counts[index]
    return tokens.features[index][:count], tokens.origins[index][:count], tokens.cluster_of_patch[index]


def bound(name: str, params: dict[str, Any]) -> BoundPruner:
    return PRUNERS[name].bind(params)


@pytest.mark.parametrize(("name", "params"), METHODS)
@given(batch=st.integers(2, 9), keep=st.integers(1, NUM_PATCHES), seed=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_a_batch_is_pruned_as_each_of_its_images_alone(
    name: str, params: dict[str, Any], batch: int, keep: int, seed: int
) -> None:
    pruner, features, texts = bound(name, params), vision(batch, seed), questions(batch, seed)
    reads_text = pruner.requirements.text
    seeds = list(range(seed, seed + batch))
    together = pruner.prune(PrunerInput(features, keep, texts if reads_text else None, seeds))
    for i in range(batch):
        text = text_row(texts, i) if reads_text else None
        alone = pruner.prune(PrunerInput(row(features, i), keep, text, seeds[i : i + 1]))
        (got, got_origins, got_clusters), (want, origins, clusters) = in_row(together, i), in_row(alone, 0)
        assert torch.equal(got_origins, origins)
        assert torch.equal(got_clusters, clusters)
        if reads_text:
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(got, want)
        for maps, other in ((together.task_map, alone.task_map), (together.saliency_map, alone.saliency_map)):
            assert (maps is None) == (other is None)
            if maps is not None and other is not None:
                torch.testing.assert_close(maps[i], other[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "params"), [method for method in METHODS if method not in IMAGE_BY_IMAGE])
def test_no_value_is_read_back_from_the_device(name: str, params: dict[str, Any]) -> None:
    """On the device `meta` tensors have no values, and a read raises."""
    pruner, texts = bound(name, params), questions(4, 0)

    def on_meta(value: torch.Tensor | None) -> Any:
        return None if value is None else value.to("meta")

    features = vision(4, 0)
    outputs = {output: values.to("meta") for output, values in features.outputs.items()}
    text = TextFeatures(
        on_meta(texts.tokens),
        on_meta(texts.eos),
        on_meta(texts.is_word),
        on_meta(texts.eos_attention),
        on_meta(texts.is_token),
        on_meta(texts.is_window),
    )
    inputs = PrunerInput(TowerFeatures(features.hidden.to("meta"), GRID, outputs), 11, text, range(4))
    pruned = pruner.prune(inputs)
    assert pruned.features.device.type == "meta"
    assert pruned.features.shape[:2] == pruned.origins.shape


def test_flowcut_reads_no_value_after_the_tower() -> None:
    features = vision(4, 0)
    kept = torch.arange(11).expand(4, -1).to("meta")
    inputs = PrunerInput(TowerFeatures(features.hidden[:, :11].to("meta"), GRID, {}, kept), 11)
    assert PRUNERS["flowcut"].bind({}).prune(inputs).features.shape == (4, 11, WIDTH)


@pytest.mark.parametrize(("name", "params"), IMAGE_BY_IMAGE)
def test_methods_that_choose_their_number_of_tokens_tell_it_for_each_image(name: str, params: dict[str, Any]) -> None:
    pruned = bound(name, params).prune(PrunerInput(vision(5, 3), 12))
    if name == "holov":  # it fills up with zero vectors
        assert pruned.counts is None
        return
    assert pruned.counts is not None
    assert pruned.origins.shape[1] == max(pruned.counts)
