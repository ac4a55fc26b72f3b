"""The statistics against scipy and against cases that can be counted by hand."""

import numpy as np
import pytest
from scipy import stats

from farkas_exp.report.statistics import (
    Summary,
    binomial_interval,
    fisher_exact_greater,
    paired_differences,
    permutation_test,
    sign_flip_test,
    stratified_t_interval,
    summarize,
    t_interval,
)

SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
"""Hours of additional sleep under two drugs (Student 1908): t = −4.0621 on 9 degrees of freedom, p = 0.002833."""


def test_summary_is_the_sample_mean_and_standard_deviation() -> None:
    assert summarize([]) is None
    assert summarize([3.0]) == Summary(3.0, None, 1)
    found = summarize([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert found is not None
    assert found.mean == 5.0
    assert found.sd == pytest.approx(np.sqrt(32 / 7))


def test_t_interval_of_students_sleep_data() -> None:
    differences = list(paired_differences(dict(enumerate(SLEEP_A)), dict(enumerate(SLEEP_B))).values())
    found = t_interval(differences)
    assert found.estimate == pytest.approx(-1.58)
    assert (found.low, found.high) == (pytest.approx(-2.4598858), pytest.approx(-0.7001142))
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert (t_interval(differences, 0.9).low, t_interval(differences, 0.9).high) == pytest.approx(tuple(expected))


def test_one_stratum_counts_like_any_other_and_equal_strata_give_the_anova_error() -> None:
    a, b = [1.0, 2.0, 3.0], [10.0, 14.0]
    found = stratified_t_interval([a, b])
    pooled = (2.0 + 8.0) / 3
    reach = stats.t.ppf(0.975, 3) * np.sqrt(pooled / 3 + pooled / 2) / 2
    assert found.estimate == pytest.approx((2.0 + 12.0) / 2)
    assert found.high - found.estimate == pytest.approx(reach)


def test_the_stratified_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        found = stratified_t_interval([generator.normal(mu, 1.0, n) for mu, n in ((-3, 2), (0, 3), (3, 4))])
        hits += found.low <= 0 <= found.high
    assert 930 <= hits <= 970


@pytest.mark.parametrize("strata", [[], [[]], [[1.0], [2.0]]])
def test_no_interval_without_two_values(strata: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="interval needs"):
        stratified_t_interval(strata)


def test_pairs_are_the_seeds_that_both_have() -> None:
    assert paired_differences({2: 5.0, 0: 3.0, 1: 9.0}, {0: 1.0, 2: 6.0, 7: 0.0}) == {0: 2.0, 2: -1.0}


def test_sign_flips_counted_by_hand() -> None:
    assert sign_flip_test([1.0, 2.0, 3.0], alternative="greater") == 1 / 8
    assert sign_flip_test([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_test([1.0, 2.0, 3.0], alternative="less") == 1.0
    assert sign_flip_test([1.0, -1.0], alternative="greater") == 3 / 4


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_sign_flips_agree_with_scipy(alternative: str) -> None:
    differences = np.subtract(SLEEP_A, SLEEP_B)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    )
    assert sign_flip_test(differences, alternative=alternative) == pytest.approx(expected.pvalue)


def test_many_differences_are_sampled_with_a_seed_close_to_the_exact_value() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, 18)
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=2**19)
    found = sign_flip_test(differences, seed=4)
    assert found == pytest.approx(exact.pvalue, abs=0.01)
    assert found == sign_flip_test(differences, seed=4)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("size", [5, 10])
def test_permutations_agree_with_scipy(alternative: str, size: int) -> None:
    a, b = SLEEP_A[:size], SLEEP_B[:size]
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, n_resamples=200_000,
        alternative=alternative,
    )  # fmt: skip
    found = permutation_test(a, b, alternative=alternative, seed=2)
    assert found == pytest.approx(expected.pvalue, abs=1e-12 if size == 5 else 0.01)


def test_sampled_permutations_of_samples_of_different_size() -> None:
    generator = np.random.default_rng(6)
    a, b = generator.normal(0.6, 1, 8), generator.normal(0, 1, 16)
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, n_resamples=50_000, rng=generator
    )
    assert permutation_test(a, b, seed=1) == pytest.approx(expected.pvalue, abs=0.015)


def test_an_unknown_alternative_is_an_error() -> None:
    with pytest.raises(ValueError, match="alternative"):
        sign_flip_test([1.0, 2.0], alternative="bigger")


def test_one_pair_says_next_to_nothing() -> None:
    assert sign_flip_test([3.0]) == 1.0
    assert (sign_flip_test([3.0], alternative="greater"), sign_flip_test([3.0], alternative="less")) == (0.5, 1.0)
    assert (sign_flip_test([-3.0], alternative="greater"), sign_flip_test([-3.0], alternative="less")) == (1.0, 0.5)
    with pytest.raises(ValueError, match="at least two values"):
        permutation_test([1.0], [2.0, 3.0])


@pytest.mark.parametrize(("successes", "trials"), [(0, 3), (1, 3), (3, 3), (7, 20)])
def test_binomial_interval_is_clopper_pearson(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(method="exact")
    found = binomial_interval(successes, trials)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    with pytest.raises(ValueError, match="4 successes in 3 trials"):
        binomial_interval(4, 3)


@pytest.mark.parametrize("table", [(3, 3, 0, 3), (2, 3, 1, 4), (5, 9, 2, 8)])
def test_fisher_against_scipy(table: tuple[int, int, int, int]) -> None:
    a, n, b, m = table
    expected = stats.fisher_exact([[a, n - a], [b, m - b]], alternative="greater")
    assert fisher_exact_greater(a, n, b, m) == pytest.approx(expected.pvalue)


def test_the_width_of_an_interval_is_between_its_ends() -> None:
    found = t_interval([1.0, 2.0, 4.0])
    assert found.width == pytest.approx(found.high - found.low)


def test_a_randomized_procedure_begins_at_seed_zero() -> None:
    values = list(np.random.default_rng(0).normal(0.3, 1, 40))
    assert sign_flip_test(values) == sign_flip_test(values, seed=0) != sign_flip_test(values, seed=1)


def test_a_test_needs_a_value_on_each_side() -> None:
    for a, b in (([], [1.0]), ([1.0], []), ([], [])):
        with pytest.raises(ValueError, match="at least two values on each side"):
            permutation_test(a, b)
    with pytest.raises(ValueError, match="at least one difference"):
        sign_flip_test([])
