import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.intervals import clustered_mean, clustered_ratio


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_interval_holds_the_mean(values: list[float]) -> None:
    interval = clustered_mean(np.array(values), np.arange(len(values)))
    assert interval.low - 1e-9 <= interval.mean <= interval.high + 1e-9


def test_a_constant_difference_has_no_width() -> None:
    interval = clustered_mean(np.full(30, -0.25), np.arange(30) // 3)
    assert (interval.low, interval.mean, interval.high) == (-0.25, -0.25, -0.25)


def test_copies_of_a_question_about_the_same_image_add_no_certainty() -> None:
    values = np.random.default_rng(0).random(50)
    once = clustered_mean(values, np.arange(50))
    often = clustered_mean(np.repeat(values, 8), np.repeat(np.arange(50), 8))
    taken_as_independent = clustered_mean(np.repeat(values, 8), np.arange(400))
    assert np.isclose(often.high - often.low, once.high - once.low)
    assert taken_as_independent.high - taken_as_independent.low < 0.5 * (often.high - often.low)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        images = rng.normal(0.3, 1.0, 60)
        values = np.repeat(images, 4) + rng.normal(0, 0.5, 240)
        interval = clustered_mean(values, np.repeat(np.arange(60), 4))
        hits += interval.low <= 0.3 <= interval.high
    assert 0.90 < hits / 300 < 0.98


def test_intervals_read_as_points() -> None:
    interval = clustered_mean(np.array([-0.5, -0.5]), np.array([0, 1]))
    assert interval.signed_points() == "-50.0 [-50.0, -50.0]"


def test_a_ratio_is_that_of_the_means_and_narrow_where_both_vary_together() -> None:
    base = np.random.default_rng(2).uniform(0.2, 1, 120)
    images = np.arange(120) // 4
    ratio = clustered_ratio(0.9 * base, base, images)
    assert np.allclose([ratio.low, ratio.mean, ratio.high], 0.9)
    other = np.random.default_rng(3).uniform(0.2, 1, 120)
    ratio = clustered_ratio(other, base, images)
    assert ratio.low < other.mean() / base.mean() < ratio.high
