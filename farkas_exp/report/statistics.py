"""The statistics of the report: means over seeds, intervals, paired differences, randomization tests.

Every randomized procedure takes a seed and is a function of its arguments. Samples hold finite numbers only; leaving
out failed runs, and counting them, is the caller's business.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n − 1 in the denominator; None for fewer than two values) of `n` values."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval of the stated confidence around it."""

    estimate: float
    low: float
    high: float
    confidence: float

    @property
    def width(self) -> float:
        """Upper minus lower end."""
        return self.high - self.low


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean, standard deviation and number of `values`; None for no values."""
    if not values:
        return None
    array = np.asarray(values, dtype=float)
    return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of normally distributed values.

    Raises:
        ValueError: fewer than two values.
    """
    return stratified_t_interval([values], confidence)


def stratified_t_interval(strata: Sequence[Sequence[float]], confidence: float = 0.95) -> Interval:
    """The interval of the mean of the stratum means, the strata weighing the same whatever their sizes.

    The variance within the strata is pooled, with Σ(n_s − 1) degrees of freedom: a stratum of one value counts with
    its mean and the pooled variance. With one stratum this is Student's t interval.

    Raises:
        ValueError: no stratum, an empty one, or no stratum of two values.
    """
    from scipy import stats

    arrays = [np.asarray(stratum, dtype=float) for stratum in strata]
    if not arrays or any(len(array) == 0 for array in arrays):
        raise ValueError("an interval needs at least one value in every stratum")
    freedom = sum(len(array) - 1 for array in arrays)
    if freedom < 1:
        raise ValueError("an interval needs two values in at least one stratum")
    pooled = sum(float(((array - array.mean()) ** 2).sum()) for array in arrays) / freedom
    estimate = float(np.mean([array.mean() for array in arrays]))
    error = math.sqrt(sum(pooled / len(array) for array in arrays)) / len(arrays)
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return Interval(estimate, estimate - reach, estimate + reach, confidence)


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The percentile bootstrap interval of the mean (Efron and Tibshirani 1993, Section 13.3).

    Raises:
        ValueError: fewer than two values.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise ValueError("a bootstrap interval needs at least two values")
    picks = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    means = array[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(array.mean()), float(low), float(high), confidence)


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """`first` − `second` for every key (a seed) that both have, in the order of the keys."""
    return {key: first[key] - second[key] for key in sorted(first.keys() & second.keys())}


def sign_flip_test(
    differences: Sequence[float], *, alternative: str = "two-sided", resamples: int = 20_000, seed: int = 0
) -> float:
    """The p value of a zero mean of paired differences, by flipping their signs.

    Under the hypothesis that the two sides of each pair are exchangeable, every combination of signs is equally
    likely. All 2ⁿ are counted up to n = 14; above that, `resamples` random ones, the observed one among them. The
    alternative is `two-sided`, `greater` (the mean is above zero) or `less`.

    Raises:
        ValueError: no differences, or an unknown alternative.
    """
    array = np.asarray(differences, dtype=float)
    if len(array) == 0:
        raise ValueError("a test needs at least one difference")
    if len(array) <= 14:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(array))))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(resamples, len(array)))
        signs[0] = 1.0
    return _tail(signs @ array / len(array), float(array.mean()), alternative)


def permutation_test(
    first: Sequence[float],
    second: Sequence[float],
    *,
    alternative: str = "two-sided",
    resamples: int = 20_000,
    seed: int = 0,
) -> float:
    """The p value of equal means of two unpaired samples, by exchanging their labels.

    All assignments are counted where there are at most `resamples`; otherwise `resamples` random ones, the observed
    one among them.

    Raises:
        ValueError: an empty sample, or an unknown alternative.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not len(a) or not len(b):
        raise ValueError("a test needs at least one value on each side")
    pooled, observed = np.concatenate([a, b]), float(a.mean() - b.mean())
    if math.comb(len(pooled), len(a)) <= resamples:
        picks = np.array(list(itertools.combinations(range(len(pooled)), len(a))))
    else:
        order = np.random.default_rng(seed).random((resamples, len(pooled))).argsort(axis=1)
        order[0] = np.arange(len(pooled))
        picks = order[:, : len(a)]
    sums = pooled[picks].sum(axis=1)
    return _tail(sums / len(a) - (pooled.sum() - sums) / len(b), observed, alternative)


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper and Pearson 1934).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    from scipy import stats

    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return Interval(successes / trials, low, high, confidence)


def fisher_exact_greater(first: int, first_trials: int, second: int, second_trials: int) -> float:
    """Fisher's exact test that the first proportion is greater: the one-sided p value."""
    from scipy import stats

    total, drawn = first_trials + second_trials, first_trials
    return float(stats.hypergeom.sf(first - 1, total, first + second, drawn))


def _tail(statistics: np.ndarray, observed: float, alternative: str) -> float:
    """The share of `statistics` at least as extreme as `observed`, ties (to rounding) included."""
    slack = 1e-9 * max(1.0, float(np.abs(statistics).max()))
    if alternative == "two-sided":
        return float((np.abs(statistics) >= abs(observed) - slack).mean())
    if alternative == "greater":
        return float((statistics >= observed - slack).mean())
    if alternative == "less":
        return float((statistics <= observed + slack).mean())
    raise ValueError(f"alternative: {alternative!r} is none of two-sided, greater, less")
