"""The statistics against scipy and against cases that can be counted by hand."""

import numpy as np
import pytest
from scipy import stats

from farkas_exp.report.statistics import (
    Summary,
    binomial_interval,
    boschloo_test,
    holm,
    over_seeds,
    paired_test,
    permutation_test,
    resolution,
    summarize,
    welch_interval,
)

SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
"""Hours of additional sleep under two drugs (Student 1908): t = −4.0621 on 9 degrees of freedom, p = 0.002833."""


def test_summary_is_the_sample_mean_and_standard_deviation() -> None:
    assert summarize([]) is None
    assert summarize([3.0]) == Summary(3.0, None, 1)
    found = summarize([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert found.mean == 5.0
    assert found.sd == pytest.approx(np.sqrt(32 / 7))


def test_means_are_called_after_the_least_and_the_largest_number_of_seeds() -> None:
    assert over_seeds([1, 1]) == "one seed"
    assert over_seeds([3, 3]) == "mean over n = 3 seeds"
    assert over_seeds([3, 1, 2]) == "mean over n = 1–3 seeds"


def test_the_resolution_is_the_smallest_step_between_figures() -> None:
    assert resolution([7.5, 7.0, 9.25]) == 0.5
    assert resolution([0.1 + 0.2, 0.3, 1.3]) == pytest.approx(1.0), "rounding is no step"
    assert resolution([2.0, 2.0]) == resolution([]) == 1.0
    assert resolution([12.34, 12.35]) == pytest.approx(0.01)
    assert resolution([23.85, 23.852, 23.87]) == pytest.approx(0.002), "one of ImageNet's 50000 images"
    assert resolution([10.0, 50.0]) == 1.0, "a gap between two methods is no step"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    for call in (
        lambda: summarize([1.0, value]), lambda: resolution([1.0, value]), lambda: holm([0.01, value]),
        lambda: welch_interval([[1.0, 2.0], [1.0, value]], [1.0, -1.0]), lambda: paired_test([1.0, value], 1.0),
        lambda: permutation_test([([1.0, value], [2.0])]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="not finite"):
            call()


def test_an_interval_believes_no_smaller_deviation_than_it_is_told() -> None:
    same, spread = welch_interval([[4.0] * 3], [1.0], least_sd=0.5), welch_interval([[3.5, 4.0, 4.5]], [1.0])
    assert (same.low, same.high) == pytest.approx((spread.low, spread.high))
    assert welch_interval([[3.0, 4.0, 5.0]], [1.0], least_sd=0.5) == welch_interval([[3.0, 4.0, 5.0]], [1.0])


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_one_sample_is_students_and_of_two_welchs(confidence: float) -> None:
    one = welch_interval([SLEEP_A], [1.0], confidence)
    expected = stats.ttest_1samp(SLEEP_A, 0).confidence_interval(confidence)
    assert (one.estimate, one.low, one.high) == pytest.approx((np.mean(SLEEP_A), *expected))
    two = welch_interval([SLEEP_A, SLEEP_B[:4]], [1.0, -1.0], confidence)
    expected = stats.ttest_ind(SLEEP_A, SLEEP_B[:4], equal_var=False).confidence_interval(confidence)
    assert (two.low, two.high) == pytest.approx(tuple(expected))
    assert (two.estimate, two.confidence) == (pytest.approx(np.mean(SLEEP_A) - np.mean(SLEEP_B[:4])), confidence)


def test_the_interval_of_an_average_over_cells_by_hand() -> None:
    found = welch_interval([[1.0, 2.0, 3.0], [10.0, 12.0, 14.0, 16.0]], [0.5, 0.5])
    parts = np.array([1.0 / 3, (20 / 3) / 4]) / 4
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    assert found.estimate == pytest.approx((2.0 + 13.0) / 2)
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()))


def test_samples_of_two_stand_apart_from_larger_ones_by_hand() -> None:
    found = welch_interval([[1.0, 2.0, 3.0], [10.0, 14.0]], [1.0, -1.0])
    student = [welch_interval([sample], [1.0]) for sample in ([1.0, 2.0, 3.0], [10.0, 14.0])]
    reaches = [each.high - each.estimate for each in student]
    assert found.high - found.estimate == pytest.approx(np.hypot(*reaches))
    two = welch_interval([[1.0, 2.0], [10.0, 14.0]], [1.0, -1.0])
    expected = stats.ttest_ind([1.0, 2.0], [10.0, 14.0], equal_var=False).confidence_interval(0.95)
    assert (two.low, two.high) == pytest.approx(tuple(expected)), "Welch's where both have two"


def test_an_interval_without_spread_is_a_point() -> None:
    found = welch_interval([[90.0, 90.0], [12.0, 12.0]], [1.0, -1.0])
    assert (found.low, found.high) == (78.0, 78.0)


@pytest.mark.parametrize("samples", [[], [[]], [[1.0], [2.0, 3.0]]])
def test_no_interval_without_two_values_in_each_sample(samples: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="interval needs"):
        welch_interval(samples, [1.0] * len(samples))


def coverage(sizes: tuple[int, ...], spreads: tuple[float, ...], confidence: float = 0.95, times: int = 4000) -> float:
    """How many of so many intervals hold the average difference of networks in pairs, as the claims compare them."""
    generator = np.random.default_rng(1)
    means, share = generator.normal(0, 20, len(sizes)), 2 / len(sizes)
    weights, hits = [share, -share] * (len(sizes) // 2), 0
    truth = float(np.dot(weights, means))
    for _ in range(times):
        samples = [generator.normal(mean, sd, n) for mean, sd, n in zip(means, spreads, sizes, strict=True)]
        found = welch_interval(samples, weights, confidence)
        hits += found.low <= truth <= found.high
    return hits / times


RATIOS = (1, 4, 10, 30, 100)
"""Of the variances of two networks."""


@pytest.mark.slow
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("sizes", [(3, 3), (5, 5), (3, 5), (5, 3)])
def test_the_interval_of_a_cell_covers_as_often_as_it_says(sizes: tuple[int, int], ratio: float) -> None:
    assert 0.93 <= coverage(sizes, (1, ratio**0.5)) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (2, 3), (5, 2), (2, 5)])
def test_two_runs_of_a_network_are_rather_covered_too_often_than_too_rarely(
    sizes: tuple[int, int], ratio: float
) -> None:  # fmt: skip
    assert 0.935 <= coverage(sizes, (1, ratio**0.5)) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(
    ("sizes", "confidence", "low", "high"),
    [((3, 3), 0.9, 0.88, 0.93), ((5, 5), 0.9, 0.88, 0.93), ((2, 3), 0.9, 0.9, 0.98),
     ((3, 3), 1 - 0.05 / 7, 0.98, 0.998), ((5, 5), 1 - 0.05 / 7, 0.985, 0.998), ((2, 3), 1 - 0.05 / 7, 0.99, 1)],
)  # fmt: skip
def test_the_intervals_of_equivalence_and_those_that_hold_jointly_cover_too(
    sizes: tuple[int, int], confidence: float, low: float, high: float, ratio: float
) -> None:
    assert low <= coverage(sizes, (1, ratio**0.5), confidence) <= high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "spreads"),
    [
        ((10, 3), (1, 3)), ((3,) * 14, (1,) * 14), ((3,) * 14, (0.1, 0.2, 0.3, 0.3, 0.3, 0.4, 3) * 2),
        ((3,) * 8, (0.2, 4) * 4), ((5,) * 14, (0.1,) * 13 + (10,)), ((3, 5) * 7, (1, 2) * 7),
    ],
)  # fmt: skip
def test_the_interval_of_an_average_covers_as_often_as_it_says(
    sizes: tuple[int, ...], spreads: tuple[float, ...]
) -> None:  # fmt: skip
    assert 0.93 <= coverage(sizes, spreads) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("size", "low", "high"), [(3, 0.92, 0.94), (2, 0.89, 0.93), (5, 0.935, 0.95)])
@pytest.mark.parametrize("cells", [2, 3, 7])
def test_an_average_that_one_sample_dominates_is_covered_less_often_as_the_docs_say(
    cells: int, size: int, low: float, high: float
) -> None:
    """One network with 100 times the variance of all others."""
    others = 2 * cells - 1
    assert low <= coverage((size,) * (others + 1), (10.0, *[1.0] * others)) <= high


@pytest.mark.parametrize(("a", "b"), [(SLEEP_A, SLEEP_B), (SLEEP_B, SLEEP_A)])
@pytest.mark.parametrize("size", [5, 8])
def test_permutations_agree_with_scipy(a: list[float], b: list[float], size: int) -> None:
    expected = stats.permutation_test(
        (a[:size], b[:size]), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, n_resamples=200_000,
        alternative="greater",
    )  # fmt: skip
    found = permutation_test([(a[:size], b[:size])])
    assert found == pytest.approx(expected.pvalue, abs=1e-12 if size == 5 else 0.01)


def test_permutations_within_cells_counted_by_hand() -> None:
    pairs = [([1.0], [0.0]), ([5.0], [3.0]), ([13.0], [10.0])]
    assert permutation_test(pairs) == 1 / 8
    assert permutation_test([(b, a) for a, b in pairs]) == 1.0
    assert permutation_test([([1.0], [0.0]), ([0.0], [1.0])]) == 3 / 4
    three = ([15.0, 15.1, 15.2], [12.0, 12.1, 12.2])
    assert permutation_test([three]) == pytest.approx(1 / 20)
    assert permutation_test([three, three]) == pytest.approx(1 / 400)


def test_cells_with_samples_of_any_size_weigh_alike() -> None:
    """Gains of -5 or 10 in the first cell, of 6 or -12 in the second: below the observed -5 + 6 lie both with -12."""
    cells = [([0.0], [0.0, 10.0]), ([0.0, 12.0], [0.0])]
    assert permutation_test(cells) == pytest.approx(2 / 3)


def test_assignments_that_are_as_extreme_but_for_rounding_count() -> None:
    """0.1 + 0.2 is more than 0.3 + 0.0 by rounding: four of six sums reach it, not three."""
    assert permutation_test([([0.1, 0.2], [0.3, 0.0])]) == pytest.approx(4 / 6)


def test_labels_are_exchanged_within_a_cell_only() -> None:
    cells = [([1.0, 1.1], [0.0, 0.1]), ([101.0, 101.1], [100.0, 100.1])]
    assert permutation_test(cells) == pytest.approx(1 / 36), "whatever the cells' levels"


def test_many_assignments_are_sampled_the_same_each_time_close_to_the_exact_value() -> None:
    generator = np.random.default_rng(3)
    a, b = list(generator.normal(0.7, 1, 9)), list(generator.normal(0, 1, 9))
    exact = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, n_resamples=np.inf,
        alternative="greater",
    )  # fmt: skip
    found = permutation_test([(a, b)])
    assert found == pytest.approx(exact.pvalue, abs=0.01)
    assert found == permutation_test([(a, b)])
    assert permutation_test([(range(20, 40), range(20))]) == pytest.approx(1 / 20_001), "what was observed counts, too"


def test_a_test_needs_a_value_on_each_side() -> None:
    for cells in ([], [([], [1.0])], [([1.0], [2.0]), ([1.0], [])]):
        with pytest.raises(ValueError, match="at least one value on each side"):
            permutation_test(cells)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 3), (1, 3), (3, 3), (7, 20)])
def test_binomial_interval_is_clopper_pearson(successes: int, trials: int) -> None:
    low = stats.beta.ppf(0.025, successes, trials - successes + 1) if successes else 0.0
    high = stats.beta.ppf(0.975, successes + 1, trials - successes) if successes < trials else 1.0
    found = binomial_interval(successes, trials)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.estimate, found.confidence) == (successes / trials, 0.95)


@pytest.mark.parametrize(("successes", "trials"), [(4, 3), (-1, 3), (0, 0)])
def test_there_are_no_more_successes_than_trials_and_a_trial_at_least(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {trials} trials"):
        binomial_interval(successes, trials)


def test_boschloo_by_hand_against_scipy_and_never_above_fisher() -> None:
    assert boschloo_test(3, 3, 0, 3) == pytest.approx(2 / 2**6), "all of three against none of three"
    assert boschloo_test(0, 3, 0, 3) == boschloo_test(3, 3, 3, 3) == 1.0
    for a, n, b, m in ((2, 3, 1, 4), (5, 9, 2, 8), (6, 21, 0, 21)):
        table = [[a, b], [n - a, m - b]]
        assert boschloo_test(a, n, b, m) == pytest.approx(stats.boschloo_exact(table).pvalue)
        assert boschloo_test(a, n, b, m) == pytest.approx(boschloo_test(b, m, a, n))
        assert boschloo_test(a, n, b, m) <= stats.fisher_exact(table)[1] + 1e-12


def test_a_paired_test_is_scipys():
    with pytest.raises(ValueError, match="at least two"):
        paired_test([1.0])
    first, second = [1.0, 2.0, 4.0, 3.0], [1.5, 2.1, 4.9, 3.2]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    assert paired_test(differences) == pytest.approx(float(stats.ttest_rel(second, first).pvalue))
    assert paired_test([-each for each in differences]) == paired_test(differences), "two-sided"
    assert paired_test([0.0, 0.0, 0.0]) == 1.0
    assert paired_test([1.0, 1.0]) == 0.0
    assert paired_test([1.0, 1.0], least_sd=1.0) == pytest.approx(2 * float(stats.t.sf(2**0.5, 1)))


def test_holm_rejects_from_the_smallest_on_until_one_is_too_large():
    assert holm([0.02, 0.001, 0.03, 0.2]) == [False, True, False, False]
    assert holm([0.01, 0.02, 0.04]) == [True, True, True]  # 0.05 / 3, / 2, / 1
    assert holm([0.05, 0.025]) == [True, True], "equality rejects"
    assert holm([]) == []
