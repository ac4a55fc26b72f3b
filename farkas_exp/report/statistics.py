"""The statistics of the report: means over seeds, intervals, exact and randomized tests.

All are functions of their arguments, the randomized ones too. A number that is not finite raises ValueError: what a
failed run counts as is the caller's business.
"""

import itertools
import math
from collections.abc import Collection, Sequence
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


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean, standard deviation and number of `values`; None for no values."""
    if not values:
        return None
    array = _finite(values)
    return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"a number that is not finite among {array.tolist()}")
    return array


def over_seeds(counts: Collection[int]) -> str:
    """What means over so many runs each are called."""
    low, high = min(counts, default=0), max(counts, default=0)
    return "one seed" if high == 1 else f"mean over n = {low if low == high else f'{low}–{high}'} seeds"


def resolution(values: Collection[float]) -> float:
    """The smallest step, in percent, between errors that are counts: one image of the test set; at most 1."""
    ordered = sorted({round(value, 6) for value in _finite([*values]).tolist()})
    return min([1.0, *(b - a for a, b in itertools.pairwise(ordered))])


def welch_interval(
    samples: Sequence[Sequence[float]], weights: Sequence[float], confidence: float = 0.95, least_sd: float = 0.0
) -> Interval:
    """The interval of a weighted sum of the means of independent samples, each with a variance of its own.

    The degrees of freedom are Welch and Satterthwaite's; with one sample this is Student's t interval, with two and the
    weights 1 and -1 Welch's. Beside larger samples those of two values have degrees of freedom of their own, and the
    squares of both reaches are added (Banerjee 1960): by Welch's alone only 91 of 100 intervals of 95 % hold the truth
    where two values vary more than three others. docs/experiments.md has the share for each design. `least_sd` is as in
    `paired_test`.

    Raises:
        ValueError: no sample, or one of fewer than two values.
    """
    from scipy import stats

    arrays = [_finite(sample) for sample in samples]
    if not arrays or min(map(len, arrays)) < 2:
        raise ValueError("an interval needs at least two values in every sample")
    variances = [max(array.var(ddof=1), least_sd**2) for array in arrays]
    parts = [w**2 * variance / len(array) for w, variance, array in zip(weights, variances, arrays, strict=True)]
    estimate = sum(weight * float(array.mean()) for array, weight in zip(arrays, weights, strict=True))
    pairs = [(part, len(array)) for part, array in zip(parts, arrays, strict=True)]
    square = 0.0
    for group in ([each for each in pairs if each[1] == 2], [each for each in pairs if each[1] > 2]):
        total, squares = sum(part for part, _ in group), sum(part**2 / (n - 1) for part, n in group)
        if squares > 0:
            square += float(stats.t.ppf((1 + confidence) / 2, total**2 / squares)) ** 2 * total
    reach = math.sqrt(square)
    return Interval(estimate, estimate - reach, estimate + reach, confidence)


def paired_test(differences: Sequence[float], least_sd: float = 0.0) -> float:
    """The p value of a mean of 0 of paired differences: Student's t test, two-sided.

    Args:
        differences: at least two.
        least_sd: a lower bound of the standard deviation, such as `resolution`: a few equal differences are no
            certainty.

    Raises:
        ValueError: fewer than two differences.
    """
    from scipy import stats

    array = _finite(differences)
    if len(array) < 2:
        raise ValueError("a paired test needs at least two differences")
    if not array.any():
        return 1.0
    spread = max(float(array.std(ddof=1)), least_sd)
    if not spread:
        return 0.0
    return float(2 * stats.t.sf(abs(array.mean()) * math.sqrt(len(array)) / spread, len(array) - 1))


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected, so that at most `level` of such families lose a true one (Holm 1979)."""
    _finite(p_values)
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > level / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


RESAMPLES = 20_000
"""A permutation test counts all assignments where there are at most so many, and otherwise as many random ones."""


def permutation_test(cells: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The p value of equal means of two samples in every cell, against a larger first one, by exchanging labels there.

    The statistic is the first mean minus the second, averaged over the cells. It holds for values of any distribution,
    such as errors of which some are at chance.

    Raises:
        ValueError: no cell, or a sample without a value.
    """
    if not cells or any(min(len(first), len(second)) < 1 for first, second in cells):
        raise ValueError("a test needs at least one value on each side of every cell")
    exact = math.prod(math.comb(len(first) + len(second), len(first)) for first, second in cells) <= RESAMPLES
    generator = np.random.default_rng(0)
    observed, null = 0.0, np.zeros(1 if exact else RESAMPLES)
    for first, second in cells:
        values, n = _finite([*first, *second]), len(first)
        if exact:
            choices = list(itertools.combinations(range(len(values)), n))
            null = np.add.outer(null, _gaps(values[choices], values)).ravel()
        else:
            null += _gaps(generator.permuted(np.tile(values, (RESAMPLES, 1)), axis=1)[:, :n], values)
        observed += float(_gaps(values[None, :n], values)[0])
    slack = 1e-9 * max(1.0, abs(observed))  # sums in another order are the same sums
    more = 0 if exact else 1  # what was observed, which is not among those drawn
    return float((np.sum(null >= observed - slack) + more) / (len(null) + more))


def _gaps(first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of each row of `first`, a part of `values`, minus the mean of the rest of them."""
    n, total = first.shape[1], first.sum(axis=1)
    return total / n - (values.sum() - total) / (len(values) - n)


def binomial_interval(successes: int, trials: int) -> Interval:
    """The exact interval of a proportion, of 95 % (Clopper and Pearson 1934).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    from scipy import stats

    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    found = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return Interval(successes / trials, float(found.low), float(found.high), 0.95)


def boschloo_test(first: int, first_trials: int, second: int, second_trials: int) -> float:
    """Boschloo's exact test of two equal proportions, two-sided.

    The numbers of trials are given beforehand, as those of runs are; Fisher's test, which takes the number of successes
    as given, too, never finds a smaller p value.
    """
    from scipy import stats

    table = [[first, second], [first_trials - first, second_trials - second]]
    return min(1.0, float(stats.boschloo_exact(table, alternative="two-sided").pvalue))
