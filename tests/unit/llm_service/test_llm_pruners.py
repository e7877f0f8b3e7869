"""Properties of every method on any prompt: exact budgets, order, ties, equivariance, no NaN."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.modeling.numerics import top_k
from llm_service.pruners import PRUNERS
from llm_service.pruners.adaptprune import AdaptPruneParameters, center_weights, soft_nms
from llm_service.pruners.attention import attention_weights
from llm_service.pruners.base import PruningContext, VisualLayout
from llm_service.pruners.density_peaks import cluster_means, density_peaks
from llm_service.pruners.plan import bind
from llm_service.pruners.sparsevlm import num_recycled, raters

HEADS, SIZE, WIDTH = 3, 4, 12


@dataclasses.dataclass
class FixedAttention:
    """A `LayerAttention` with given queries, keys and values of the whole sequence."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    raw: torch.Tensor

    @property
    def rotary(self):
        angles = torch.arange(self.q.shape[1])[:, None] * torch.tensor([1.0, 0.1])
        return torch.cat([angles, angles], dim=-1).cos(), torch.cat([angles, angles], dim=-1).sin()

    def queries(self, indices):
        return self.q[:, indices]

    def keys(self):
        return self.k

    def values(self):
        return self.v

    def raw_keys(self, indices):
        return self.raw[indices]


def layout_of(start, columns, num_visual):
    index = torch.arange(num_visual)
    rows = -(-num_visual // columns)
    return VisualLayout(start + index, torch.zeros_like(index), index // columns, index % columns, ((rows, columns),))


def context_of(num_visual, *, prefix=3, text=5, columns=4, seed=0, constant=False):
    generator = torch.Generator().manual_seed(seed)
    length = prefix + num_visual + text

    def draw(*shape):
        return torch.ones(shape) if constant else torch.randn(shape, generator=generator)

    layers = [FixedAttention(*(draw(HEADS, length, SIZE) for _ in range(3)), draw(length, WIDTH)) for _ in range(2)]
    layout = layout_of(prefix, columns, num_visual)
    return PruningContext(
        hidden_states=draw(length, WIDTH),
        previous_hidden_states=draw(length, WIDTH),
        visual_indices=layout.indices,
        original_indices=torch.arange(num_visual),
        previous=layers[0],
        upcoming=layers[1],
        inputs_embeds=draw(length, WIDTH),
        layout=layout,
    )


def prune(name, context, keep, **params):
    return bind(PRUNERS[name], params).prune(context, keep)


@pytest.mark.parametrize("name", PRUNERS)
@settings(deadline=None)
@given(num_visual=st.integers(2, 40), data=st.data(), seed=st.integers(0, 99), constant=st.booleans())
def test_the_budget_is_exact_and_the_order_ascending(name, num_visual, data, seed, constant):
    keep = data.draw(st.integers(1, num_visual - 1))
    result = prune(name, context_of(num_visual, seed=seed, constant=constant), keep)
    kept = result.kept.tolist()
    assert len(kept) == keep
    assert kept == sorted(set(kept))
    assert kept[0] >= 0
    assert kept[-1] < num_visual
    num_merged = 0 if result.merged is None else len(result.merged)
    assert num_merged == PRUNERS[name].num_merged(num_visual, keep)
    assert result.merged is None or result.merged.isfinite().all()


SETTINGS = [
    ("fastv", {"fidelity": True}),
    *(("adaptprune", {name: value}) for name in ("radius", "sigma_distance", "center_sigma") for value in (0.01, 1000)),
    *(("adaptprune", {"sigma_similarity": value}) for value in (0.001, 10)),
    ("adaptprune", {"radius": 0}),
    *(("sparsevlm_plus", {"heads": heads}) for heads in (1, 14, 1024)),
]


@pytest.mark.parametrize(("name", "params"), SETTINGS)
@settings(deadline=None, max_examples=25)
@given(
    num_visual=st.integers(2, 40),
    columns=st.integers(1, 7),
    data=st.data(),
    seed=st.integers(0, 99),
    same=st.booleans(),
)
def test_no_parameter_breaks_a_budget(name, params, num_visual, columns, data, seed, same):
    keep = data.draw(st.integers(1, num_visual - 1))
    context = context_of(num_visual, columns=columns, seed=seed, constant=same)
    kept = prune(name, context, keep, **params).kept.tolist()
    assert len(kept) == keep
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(num_visual))
    assert kept == prune(name, context, keep, **params).kept.tolist()


@pytest.mark.parametrize("name", [name for name in PRUNERS if name not in ("adaptprune", "sparsevlm_plus")])
@pytest.mark.parametrize("keep", [1, 5, 19])
def test_ties_go_to_the_smaller_index(name, keep):
    """The two other methods weigh positions, so they have no ties."""
    assert prune(name, context_of(20, constant=True), keep).kept.tolist() == list(range(keep))


def test_without_differences_adaptprune_prefers_the_center_and_spreads():
    context = context_of(25, columns=5, constant=True)
    assert prune("adaptprune", context, 1).kept.tolist() == [12]
    # (1, 2) patches away, neither suppressed by the first pick nor far from the center; of eight ties the first wins.
    assert prune("adaptprune", context, 2).kept.tolist() == [1, 12]


@pytest.mark.parametrize("name", PRUNERS)
def test_the_same_context_gives_the_same_result_and_is_not_changed(name):
    context, again = context_of(30), context_of(30)
    first, second = (prune(name, context, 11) for _ in range(2))
    assert torch.equal(first.kept, second.kept)
    assert torch.equal(context.hidden_states, again.hidden_states)
    assert torch.equal(context.previous.k, again.previous.k)


def permuted(context, order):
    """The same prompt with its visual tokens, and everything that belongs to them, in another order."""
    indices = torch.arange(len(context.hidden_states))
    indices[context.visual_indices] = context.visual_indices[order]

    def permute(layer):
        return FixedAttention(layer.q[:, indices], layer.k[:, indices], layer.v[:, indices], layer.raw[indices])

    layout = context.layout
    return dataclasses.replace(
        context,
        hidden_states=context.hidden_states[indices],
        previous_hidden_states=context.previous_hidden_states[indices],
        inputs_embeds=context.inputs_embeds[indices],
        previous=permute(context.previous),
        upcoming=permute(context.upcoming),
        layout=dataclasses.replace(layout, row=layout.row[order], column=layout.column[order]),
    )


@pytest.mark.parametrize("name", [name for name in PRUNERS if name != "sparsevlm_plus"])
@settings(deadline=None)
@given(order=st.permutations(range(24)), keep=st.integers(1, 23))
def test_results_follow_a_permutation_of_the_tokens(name, order, keep):
    """SparseVLM+ also scores by position."""
    context, order = context_of(24), torch.tensor(order)
    expected = set(prune(name, context, keep).kept.tolist())
    assert set(order[prune(name, permuted(context, order), keep).kept].tolist()) == expected


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "adaptprune", "flowcut_llm"])
def test_the_token_with_the_attention_of_the_last_one_is_kept(name):
    context = context_of(20)
    for layer in (context.previous, context.upcoming):
        layer.k[:, context.visual_indices[13]] = 50 * layer.q[:, -1]
    assert 13 in prune(name, context, 1).kept.tolist()


def test_v2drop_keeps_the_tokens_that_changed():
    context = context_of(20)
    context.hidden_states[context.visual_indices] = context.previous_hidden_states[context.visual_indices]
    context.hidden_states[context.visual_indices[[4, 17]]] += 1
    assert prune("v2drop", context, 2).kept.tolist() == [4, 17]


def test_attention_weights_are_causal_and_sum_to_one():
    layer = context_of(10).previous
    weights = attention_weights(layer, torch.tensor([4, 12]))
    assert weights.shape == (HEADS, 2, 18)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(HEADS, 2))
    assert (weights[:, 0, 5:] == 0).all()
    future = torch.ones(18, 18).triu(1).bool()
    full = (layer.q @ layer.k.transpose(1, 2) / 2).masked_fill(future, -torch.inf).softmax(-1)
    assert torch.allclose(weights, full[:, [4, 12]])


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm_plus"])
def test_chunks_of_raters_do_not_change_the_result(name, monkeypatch):
    context = context_of(30, text=40)
    expected = prune(name, context, 9)
    monkeypatch.setattr("llm_service.pruners.sparsevlm._RATERS_PER_CHUNK", 3)
    assert torch.equal(prune(name, context, 9).kept, expected.kept)


def test_raters_are_the_text_tokens_related_to_the_image():
    prompt = torch.zeros(10, 2)
    prompt[2:5] = torch.tensor([2.0, 0.0])  # the image
    prompt[[6, 8]] = torch.tensor([1.0, 0.0])
    assert raters(prompt, torch.arange(2, 5)).tolist() == [6, 8]


@pytest.mark.parametrize("text", [1, 4])
def test_with_equal_votes_the_last_token_is_the_rater(text):
    assert raters(torch.zeros(5 + text, 2), torch.arange(2, 5)).tolist() == [4 + text]


@settings(deadline=None)
@given(num_visual=st.integers(2, 700), data=st.data())
def test_merged_tokens_never_outnumber_dropped_ones(num_visual, data):
    keep = data.draw(st.integers(0, num_visual - 1))
    assert 1 <= num_recycled(num_visual, keep) <= num_visual - keep


def test_density_peaks_find_two_groups():
    points = torch.tensor([[0.0, 0], [0.1, 0], [0, 0.1], [9, 9], [9.1, 9]])
    cluster_of_point = density_peaks(points, 2)
    assert len(set(cluster_of_point[:3].tolist())) == len(set(cluster_of_point[3:].tolist())) == 1
    assert cluster_of_point[0] != cluster_of_point[3]
    means = cluster_means(points, cluster_of_point, 2)
    assert torch.allclose(means[cluster_of_point[0]], points[:3].mean(dim=0), atol=1e-4)


@settings(deadline=None)
@given(count=st.integers(1, 12), data=st.data())
def test_equal_points_give_as_many_clusters_as_requested(count, data):
    num_clusters = data.draw(st.integers(1, count))
    cluster_of_point = density_peaks(torch.ones(count, 3), num_clusters)
    assert set(cluster_of_point.tolist()) == set(range(num_clusters))


def test_a_pick_suppresses_similar_tokens_nearby_only():
    layout = layout_of(0, 5, 10)
    scores = torch.tensor([1.0, 0.9, 0.1, 0.1, 0.85, 0.1, 0.1, 0.1, 0.1, 0.1])
    alike = soft_nms(scores, torch.ones(10, 2), layout, 2, AdaptPruneParameters())
    assert alike.tolist() == [0, 4]
    keys = torch.ones(10, 2)
    keys[1] = torch.tensor([1.0, -1.0])
    assert soft_nms(scores, keys, layout, 2, AdaptPruneParameters()).tolist() == [0, 1]


def test_images_do_not_suppress_each_other():
    layout = dataclasses.replace(layout_of(0, 2, 4), image=torch.tensor([0, 0, 1, 1]), row=torch.zeros(4).long())
    scores = torch.tensor([1.0, 0.9, 0.8, 0.7])
    assert soft_nms(scores, torch.ones(4, 2), layout, 2, AdaptPruneParameters()).tolist() == [0, 2]


def test_the_center_of_each_image_weighs_most():
    row, column = torch.tensor([0, 1, 2, 0, 0]), torch.tensor([1, 1, 1, 0, 6])
    layout = VisualLayout(torch.arange(5), torch.tensor([0, 0, 0, 1, 1]), row, column, ((3, 3), (1, 7)))
    weights = center_weights(layout, 0.5)
    assert weights[1] == 1
    assert weights[0] == weights[2] < 1
    assert weights[3] == weights[4] < 1


@settings(deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(1, 30), sigma=st.floats(0.01, 1000))
def test_the_center_has_weight_1_for_any_width_of_the_gaussian(rows, columns, sigma):
    index = torch.arange(rows * columns)
    layout = VisualLayout(index, torch.zeros_like(index), index // columns, index % columns, ((rows, columns),))
    weights = center_weights(layout, sigma).view(rows, columns)
    assert weights.isfinite().all()
    assert weights[(rows - 1) // 2, (columns - 1) // 2] == weights.max() == 1
    torch.testing.assert_close(weights, weights.flip(0, 1), rtol=1e-6, atol=0)


def test_top_k_is_ascending_and_ties_go_to_the_smaller_index():
    assert top_k(torch.tensor([1.0, 3, 3, 2, 3]), 2).tolist() == [1, 2]
