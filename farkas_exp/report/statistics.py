"""The statistics of the report: means over seeds, intervals, paired differences, randomization tests, by scipy.

Every randomized procedure takes a seed and is a function of its arguments. Samples hold finite numbers only; leaving
out failed runs, and counting them, is the caller's business.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """`first` − `second` for every key (a seed) that both have, in the order of the keys."""
    return {key: first[key] - second[key] for key in sorted(first.keys() & second.keys())}


RESAMPLES = 20_000
"""A randomization test counts all assignments where there are at most so many, and otherwise as many random ones."""


def sign_flip_test(differences: Sequence[float], *, alternative: str = "two-sided", seed: int = 0) -> float:
    """The p value of a zero mean of paired differences, by flipping their signs.

    Under the hypothesis that the two sides of each pair are exchangeable, every combination of signs is equally
    likely. The alternative is `two-sided`, `greater` (the mean is above zero) or `less`.

    Raises:
        ValueError: no differences, or an unknown alternative.
    """
    if len(differences) == 0:
        raise ValueError("a test needs at least one difference")
    if len(differences) == 1:  # scipy asks for two
        signed = {"greater": differences[0], "less": -differences[0]}.get(alternative, 0.0)
        return 0.5 if signed > 0 else 1.0
    return _randomization((differences,), np.mean, "samples", alternative, seed)


def permutation_test(
    first: Sequence[float], second: Sequence[float], *, alternative: str = "two-sided", seed: int = 0
) -> float:
    """The p value of equal means of two unpaired samples, by exchanging their labels.

    Raises:
        ValueError: fewer than two values on a side, or an unknown alternative.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a test needs at least two values on each side")
    return _randomization((first, second), _gap, "independent", alternative, seed)


def _gap(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    return first.mean(axis=axis) - second.mean(axis=axis)


def _randomization(samples: Sequence[Any], statistic: Any, kind: Any, alternative: Any, seed: int) -> float:
    from scipy import stats

    found = stats.permutation_test(
        tuple(np.asarray(sample, dtype=float) for sample in samples), statistic, permutation_type=kind,
        vectorized=True, n_resamples=RESAMPLES, alternative=alternative, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper and Pearson 1934).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    from scipy import stats

    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    found = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return Interval(successes / trials, float(found.low), float(found.high), confidence)


def fisher_exact_greater(first: int, first_trials: int, second: int, second_trials: int) -> float:
    """Fisher's exact test that the first proportion is greater: the one-sided p value."""
    from scipy import stats

    table = [[first, first_trials - first], [second, second_trials - second]]
    _, p_value = stats.fisher_exact(table, alternative="greater")
    return float(p_value)  # type: ignore[arg-type]
