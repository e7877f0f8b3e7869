"""What must hold of every method on any prompt: exact budgets, order, ties, equivariance, no NaN."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.modeling.numerics import top_k
from llm_service.pruners import PRUNERS
from llm_service.pruners.adaptprune import AdaptPruneParameters, center_weights, suppress_and_pick
from llm_service.pruners.base import Moment, VisualLayout
from llm_service.pruners.density_peaks import cluster_means, density_peaks
from llm_service.pruners.plan import bind
from llm_service.pruners.selection import attention_rows
from llm_service.pruners.sparsevlm import num_recycled, raters

HEADS, SIZE, WIDTH = 3, 4, 12


@dataclasses.dataclass
class View:
    """Attention of given queries, keys and values, all of the whole sequence."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    raw: torch.Tensor

    @property
    def rotary(self):
        angles = torch.arange(self.q.shape[1])[:, None] * torch.tensor([1.0, 0.1])
        return torch.cat([angles, angles], dim=-1).cos(), torch.cat([angles, angles], dim=-1).sin()

    def queries(self, places):
        return self.q[:, places]

    def keys(self):
        return self.k

    def values(self):
        return self.v

    def raw_keys(self, places):
        return self.raw[places]


def layout_of(start, columns, num_visual):
    index = torch.arange(num_visual)
    rows = -(-num_visual // columns)
    return VisualLayout(start + index, torch.zeros_like(index), index // columns, index % columns, ((rows, columns),))


def moment_of(num_visual, *, prefix=3, text=5, columns=4, seed=0, constant=False):
    generator = torch.Generator().manual_seed(seed)
    length = prefix + num_visual + text

    def draw(*shape):
        return torch.ones(shape) if constant else torch.randn(shape, generator=generator)

    views = [View(*(draw(HEADS, length, SIZE) for _ in range(3)), draw(length, WIDTH)) for _ in range(2)]
    layout = layout_of(prefix, columns, num_visual)
    return Moment(
        hidden=draw(length, WIDTH),
        previous_hidden=draw(length, WIDTH),
        visual=layout.places,
        origin=torch.arange(num_visual),
        previous=views[0],
        upcoming=views[1],
        prompt=draw(length, WIDTH),
        layout=layout,
    )


def prune(name, moment, keep, **params):
    return bind(PRUNERS[name], params).prune(moment, keep)


@pytest.mark.parametrize("name", PRUNERS)
@settings(deadline=None)
@given(num_visual=st.integers(2, 40), data=st.data(), seed=st.integers(0, 99), constant=st.booleans())
def test_the_budget_is_exact_and_the_order_raster(name, num_visual, data, seed, constant):
    keep = data.draw(st.integers(1, num_visual - 1))
    choice = prune(name, moment_of(num_visual, seed=seed, constant=constant), keep)
    kept = choice.kept.tolist()
    assert len(kept) == keep
    assert kept == sorted(set(kept))
    assert kept[0] >= 0
    assert kept[-1] < num_visual
    merged = 0 if choice.merged is None else len(choice.merged)
    assert merged == PRUNERS[name].num_merged(num_visual, keep)
    assert choice.merged is None or choice.merged.isfinite().all()


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
    moment = moment_of(num_visual, columns=columns, seed=seed, constant=same)
    kept = prune(name, moment, keep, **params).kept.tolist()
    assert len(kept) == keep
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(num_visual))
    assert kept == prune(name, moment, keep, **params).kept.tolist()


@pytest.mark.parametrize("name", [name for name in PRUNERS if name not in ("adaptprune", "sparsevlm_plus")])
@pytest.mark.parametrize("keep", [1, 5, 19])
def test_equal_scores_go_to_the_first(name, keep):
    """The two others weigh places, so that nothing is equal there."""
    assert prune(name, moment_of(20, constant=True), keep).kept.tolist() == list(range(keep))


def test_without_differences_adaptprune_prefers_the_middle_and_spreads():
    moment = moment_of(25, columns=5, constant=True)
    assert prune("adaptprune", moment, 1).kept.tolist() == [12]
    # A knight's move away, neither suppressed by the first pick nor far out; eight tokens tie, and the first is taken.
    assert prune("adaptprune", moment, 2).kept.tolist() == [1, 12]


@pytest.mark.parametrize("name", PRUNERS)
def test_the_same_prompt_gives_the_same_choice_and_is_not_changed(name):
    moment, again = moment_of(30), moment_of(30)
    first, second = (prune(name, moment, 11) for _ in range(2))
    assert torch.equal(first.kept, second.kept)
    assert torch.equal(moment.hidden, again.hidden)
    assert torch.equal(moment.previous.k, again.previous.k)


def permuted(moment, order):
    """The same prompt with its visual tokens in another order, all that belongs to a token moved along."""
    places = torch.arange(len(moment.hidden))
    places[moment.visual] = moment.visual[order]

    def view(one):
        return View(one.q[:, places], one.k[:, places], one.v[:, places], one.raw[places])

    layout = moment.layout
    return dataclasses.replace(
        moment,
        hidden=moment.hidden[places],
        previous_hidden=moment.previous_hidden[places],
        prompt=moment.prompt[places],
        previous=view(moment.previous),
        upcoming=view(moment.upcoming),
        layout=dataclasses.replace(layout, row=layout.row[order], column=layout.column[order]),
    )


@pytest.mark.parametrize("name", [name for name in PRUNERS if name != "sparsevlm_plus"])
@settings(deadline=None)
@given(order=st.permutations(range(24)), keep=st.integers(1, 23))
def test_a_choice_follows_its_tokens(name, order, keep):
    """SparseVLM+ alone scores by place as well."""
    moment, order = moment_of(24), torch.tensor(order)
    expected = set(prune(name, moment, keep).kept.tolist())
    assert set(order[prune(name, permuted(moment, order), keep).kept].tolist()) == expected


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "adaptprune", "flowcut_llm"])
def test_what_the_last_token_looks_at_is_kept(name):
    moment = moment_of(20)
    for one in (moment.previous, moment.upcoming):
        one.k[:, moment.visual[13]] = 50 * one.q[:, -1]
    assert 13 in prune(name, moment, 1).kept.tolist()


def test_v2drop_keeps_what_changed():
    moment = moment_of(20)
    moment.hidden[moment.visual] = moment.previous_hidden[moment.visual]
    moment.hidden[moment.visual[[4, 17]]] += 1
    assert prune("v2drop", moment, 2).kept.tolist() == [4, 17]


def test_rows_of_attention_are_causal_and_sum_to_one():
    view = moment_of(10).previous
    rows = attention_rows(view, torch.tensor([4, 12]))
    assert rows.shape == (HEADS, 2, 18)
    assert torch.allclose(rows.sum(dim=-1), torch.ones(HEADS, 2))
    assert (rows[:, 0, 5:] == 0).all()
    full = (view.q @ view.k.transpose(1, 2) / 2).masked_fill(torch.ones(18, 18).triu(1).bool(), -torch.inf).softmax(-1)
    assert torch.allclose(rows, full[:, [4, 12]])


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm_plus"])
def test_many_raters_are_read_in_parts_with_the_same_result(name, monkeypatch):
    moment = moment_of(30, text=40)
    expected = prune(name, moment, 9)
    monkeypatch.setattr("llm_service.pruners.sparsevlm._RATERS_AT_ONCE", 3)
    assert torch.equal(prune(name, moment, 9).kept, expected.kept)


def test_raters_are_the_words_near_to_the_picture():
    prompt = torch.zeros(10, 2)
    prompt[2:5] = torch.tensor([2.0, 0.0])  # the picture
    prompt[[6, 8]] = torch.tensor([1.0, 0.0])
    assert raters(prompt, torch.arange(2, 5)).tolist() == [6, 8]


@pytest.mark.parametrize("text", [1, 4])
def test_where_no_word_stands_out_the_last_one_rates(text):
    assert raters(torch.zeros(5 + text, 2), torch.arange(2, 5)).tolist() == [4 + text]


@settings(deadline=None)
@given(num_visual=st.integers(2, 700), data=st.data())
def test_recycled_clusters_never_outnumber_what_is_dropped(num_visual, data):
    keep = data.draw(st.integers(0, num_visual - 1))
    assert 1 <= num_recycled(num_visual, keep) <= num_visual - keep


def test_density_peaks_find_two_groups():
    points = torch.tensor([[0.0, 0], [0.1, 0], [0, 0.1], [9, 9], [9.1, 9]])
    owner = density_peaks(points, 2)
    assert len(set(owner[:3].tolist())) == len(set(owner[3:].tolist())) == 1
    assert owner[0] != owner[3]
    means = cluster_means(points, owner, 2)
    assert torch.allclose(means[owner[0]], points[:3].mean(dim=0), atol=1e-4)


@settings(deadline=None)
@given(count=st.integers(1, 12), data=st.data())
def test_equal_points_make_clusters_all_the_same(count, data):
    num_clusters = data.draw(st.integers(1, count))
    owner = density_peaks(torch.ones(count, 3), num_clusters)
    assert set(owner.tolist()) == set(range(num_clusters))


def test_a_pick_suppresses_its_likes_nearby_only():
    layout = layout_of(0, 5, 10)
    scores = torch.tensor([1.0, 0.9, 0.1, 0.1, 0.85, 0.1, 0.1, 0.1, 0.1, 0.1])
    alike = suppress_and_pick(scores, torch.ones(10, 2), layout, 2, AdaptPruneParameters())
    assert alike.tolist() == [0, 4]
    keys = torch.ones(10, 2)
    keys[1] = torch.tensor([1.0, -1.0])
    assert suppress_and_pick(scores, keys, layout, 2, AdaptPruneParameters()).tolist() == [0, 1]


def test_pictures_do_not_suppress_each_other():
    layout = dataclasses.replace(layout_of(0, 2, 4), picture=torch.tensor([0, 0, 1, 1]), row=torch.zeros(4).long())
    scores = torch.tensor([1.0, 0.9, 0.8, 0.7])
    assert suppress_and_pick(scores, torch.ones(4, 2), layout, 2, AdaptPruneParameters()).tolist() == [0, 2]


def test_the_middle_of_each_picture_weighs_most():
    row, column = torch.tensor([0, 1, 2, 0, 0]), torch.tensor([1, 1, 1, 0, 6])
    layout = VisualLayout(torch.arange(5), torch.tensor([0, 0, 0, 1, 1]), row, column, ((3, 3), (1, 7)))
    weights = center_weights(layout, 0.5)
    assert weights[1] == 1
    assert weights[0] == weights[2] < 1
    assert weights[3] == weights[4] < 1


@settings(deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(1, 30), sigma=st.floats(0.01, 1000))
def test_the_middle_weighs_1_however_narrow_the_gaussian(rows, columns, sigma):
    index = torch.arange(rows * columns)
    layout = VisualLayout(index, torch.zeros_like(index), index // columns, index % columns, ((rows, columns),))
    weights = center_weights(layout, sigma).view(rows, columns)
    assert weights.isfinite().all()
    assert weights[(rows - 1) // 2, (columns - 1) // 2] == weights.max() == 1
    torch.testing.assert_close(weights, weights.flip(0, 1), rtol=1e-6, atol=0)


def test_the_best_come_in_order_and_ties_to_the_first():
    assert top_k(torch.tensor([1.0, 3, 3, 2, 3]), 2).tolist() == [1, 2]
