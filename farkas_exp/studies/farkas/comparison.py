"""Two networks compared in the cells of the paper's tables: by their errors, and by how many of their runs fail.

Leaving failed runs out would favour the network that fails more often, so they enter the errors at chance among the
classes of their data. Such errors are far from normal: where failures decide, look at the permutation test and at the
test of their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np

from farkas_exp.report.arms import Arm
from farkas_exp.report.statistics import Interval, boschloo_test, permutation_test, resolution, welch_interval
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import chance_error, has_failed, number, ranked_error, trains_below
from farkas_exp.studies.farkas.filling import Filled
from farkas_exp.studies.farkas.paper_table import cell_arm

LEVEL = 0.05
EARLY = 0.3
"""The share of the epochs before the first drop of the learning rate: 60 of 200."""

Score = Callable[[RunRecord], float]


def trains(run: RunRecord) -> bool:
    """Whether the error of a run with a result is clearly below chance: less than nine tenths of it."""
    return ranked_error(run) < trains_below(run)


def significant(p: float | None) -> bool:
    """Whether there is a p value of at most 5 %."""
    return p is not None and p <= LEVEL + 1e-9  # 1/20, as of three runs against three, may be rounded up


def first_error(run: RunRecord) -> float:
    """The test error after the first epoch; chance for a run that failed before its end, NaN without one."""
    value = next((number(row.get("test_error")) for row in run.metrics() if row.get("epoch") == 1), np.nan)
    return chance_error(run) if np.isnan(value) and has_failed(run) else value


def early_error(run: RunRecord) -> float:
    """The mean test error of the epochs before the first drop of the rate; chance for a failed run, NaN before it."""
    if has_failed(run):
        return chance_error(run)
    last = max(1.0, EARLY * run.epochs)
    rows = run.metrics() if run.epoch >= last else []
    values = [number(row.get("test_error")) for row in rows if number(row.get("epoch")) <= last]
    found = [value for value in values if np.isfinite(value)]
    return float(np.mean(found)) if found else np.nan


def with_result(arm: Arm) -> list[RunRecord]:
    """The runs of an arm that count, whether they trained or failed."""
    return [*arm.finished, *arm.failed]


@dataclass(frozen=True)
class Failures:
    """How many runs of each network did not train, and of how many; the one said to be worse comes first."""

    names: tuple[str, str]
    worse: int
    worse_runs: int
    better: int
    better_runs: int

    @cached_property
    def p(self) -> float:
        """The p value of both failing as often; 1 where nothing is known of one of them."""
        if not self.worse_runs or not self.better_runs:
            return 1.0
        return boschloo_test(self.worse, self.worse_runs, self.better, self.better_runs)

    @property
    def always(self) -> bool:
        """Whether one of the networks has runs, and none that trained."""
        return self.worse == self.worse_runs > 0 or self.better == self.better_runs > 0

    @property
    def text(self) -> str:
        """In words; empty where every run trained."""
        if not self.worse and not self.better:
            return ""
        counts = (self.worse, self.worse_runs), (self.better, self.better_runs)
        each = [f"{failed} of {runs} {name}" for name, (failed, runs) in zip(self.names, counts, strict=True)]
        return f"Failed: {'; '.join(each)} (p = {self.p:.2g})"

    def more(self, worse: bool) -> bool:
        """Whether the network said to be worse (or else the other) fails significantly more often."""
        gap = self.worse * self.better_runs - self.better * self.worse_runs
        return significant(self.p) and (gap > 0 if worse else gap < 0)


@dataclass(frozen=True)
class Contrast:
    """The errors of two networks in one cell, and how often they fail: `worse` is the one that is said to lose."""

    where: str
    worse: tuple[float, ...]
    better: tuple[float, ...]
    failures: Failures

    @property
    def gain(self) -> float:
        """By how much the mean error of the better network is smaller."""
        return fmean(self.worse) - fmean(self.better)

    def interval(self, confidence: float = 1 - LEVEL) -> Interval | None:
        """Welch's interval of the gain; None with a single run on a side."""
        return Comparison((self,)).interval(confidence)

    @property
    def least_runs(self) -> int:
        """The smaller number of runs of the two."""
        return min(len(self.worse), len(self.better))


def contrast(
    worse: Arm, better: Arm, score: Score = ranked_error, where: str = "", names: tuple[str, str] | None = None
) -> Contrast | None:
    """Two arms by a score of their runs; None where no run of one of them has it. Their labels are their names."""
    one, two = [tuple(value for run in arm.runs if np.isfinite(value := score(run))) for arm in (worse, better)]
    return Contrast(where, one, two, failures(worse, better, names)) if one and two else None


def failures(worse: Arm, better: Arm, names: tuple[str, str] | None = None) -> Failures:
    """How many runs of either arm did not train."""
    runs = [with_result(arm) for arm in (worse, better)]
    counts = [(sum(not trains(run) for run in each), len(each)) for each in runs]
    return Failures(names or (worse.label, better.label), *counts[0], *counts[1])


@dataclass(frozen=True)
class Comparison:
    """The same two kinds of networks in several cells."""

    cells: tuple[Contrast, ...]

    @property
    def gains(self) -> list[float]:
        """The gain of each cell."""
        return [cell.gain for cell in self.cells]

    def interval(self, confidence: float = 1 - LEVEL) -> Interval | None:
        """Welch's interval of the gain, averaged over the cells.

        Where a cell has a single run on a side, the gains of the cells are the sample; None where there is only one.
        Equal errors of a few runs are no certainty: they vary at least by the step between errors, up to a point.
        """
        samples = [sample for cell in self.cells for sample in (cell.worse, cell.better)]
        step = resolution([error for sample in samples for error in sample])
        if samples and min(map(len, samples)) > 1:
            share = 1 / len(self.cells)
            return welch_interval(samples, [share, -share] * len(self.cells), confidence, step)
        return welch_interval([self.gains], [1.0], confidence, step) if len(self.cells) > 1 else None

    def joint_intervals(self, confidence: float = 1 - LEVEL) -> list[Interval | None]:
        """An interval for the gain of each cell, which all hold at once with this confidence (Bonferroni)."""
        return [cell.interval(1 - (1 - confidence) / len(self.cells)) for cell in self.cells]

    @cached_property
    def p(self) -> float | None:
        """The p value of a gain of zero, against one above it, by permutations within the cells."""
        pairs = [(cell.worse, cell.better) for cell in self.cells]
        return permutation_test(pairs) if pairs else None

    @property
    def failures(self) -> Failures | None:
        """Those of all cells."""
        counts = [(f.worse, f.worse_runs, f.better, f.better_runs) for f in (cell.failures for cell in self.cells)]
        return Failures(self.cells[0].failures.names, *map(sum, zip(*counts, strict=True))) if counts else None

    @property
    def lost(self) -> bool:
        """Whether the better network is worse after all, in a cell (by joint intervals), or fails more often."""
        failures = self.failures
        return any(each and each.high < 0 for each in self.joint_intervals()) or bool(
            failures and failures.more(worse=False)
        )

    @property
    def least_runs(self) -> int:
        """The smallest number of runs of a network in a cell."""
        return min((cell.least_runs for cell in self.cells), default=0)

    @property
    def runs(self) -> int:
        """The number of all runs that are compared."""
        return sum(len(cell.worse) + len(cell.better) for cell in self.cells)


def in_pairs(filled: Sequence[Filled], normalization: str, score: Score = ranked_error) -> Comparison:
    """ResNet against FarkasNet in each cell of the tables that has runs of both; no run counts in two cells."""
    used: set[str] = set()
    found = []
    for each in filled:
        for column in each.table.columns:
            plain, farkas = (cell_arm(wanted, each) for wanted in each.table.pair(column, normalization))
            paths = {str(run.path) for run in (*plain.runs, *farkas.runs)}
            made = contrast(plain, farkas, score, f"{each.table.short}, {column}", ("ResNet", "FarkasNet"))
            if made and not paths & used:
                found.append(made)
            used |= paths
    return Comparison(tuple(found))
