"""Which of the methods are told apart by their runs: ranks as ranges, from differences paired by seed.

Runs of one seed share the order of their images, so methods are compared seed by seed, a failed run at chance. Of all
pairs with two seeds or more in common those are told apart whose paired t test stays below 5 % after Holm's correction
for their number. A method then ranks behind those that are better and before those that are worse; between these the
runs say nothing, and the ranks are a tie.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from farkas_exp.machine.output import plural
from farkas_exp.report import style
from farkas_exp.report.statistics import Interval, holm, paired_test, resolution, welch_interval
from farkas_exp.report.tables import Table, tabulate

LEVEL = 0.05

Errors = Mapping[int, float]
"""The error of a method in percent by seed, a failed run at chance."""


@dataclass(frozen=True)
class Standing:
    """Where a method stands: its mean error, its best and worst rank, and its difference from the first one."""

    name: str
    errors: Errors
    low: int
    high: int
    behind: Interval | None

    @property
    def mean(self) -> float:
        """The mean error."""
        return fmean(self.errors.values())

    @property
    def ranks(self) -> str:
        """The ranks that the runs leave open."""
        return str(self.low) if self.low == self.high else f"{self.low} – {self.high}"


def standings(methods: Mapping[str, Errors]) -> list[Standing]:
    """The methods that have runs, the smallest mean error first."""
    known = {name: errors for name, errors in methods.items() if errors}
    order = sorted(known, key=lambda name: (fmean(known[name].values()), name))
    step = step_of(known)
    pairs = {pair: behind for pair in itertools.combinations(order, 2) if len(behind := differences(known, *pair)) > 1}
    # by the seeds of both: means over other seeds may be in another order
    apart = {pair if sum(pairs[pair]) > 0 else pair[::-1] for pair in told_apart(pairs, step)}
    better = {name: 1 + sum((other, name) in apart for other in order) for name in order}
    worse = {name: len(order) - sum((name, other) in apart for other in order) for name in order}
    return [
        Standing(name, known[name], better[name], worse[name], _behind(known, name, order[0], step)) for name in order
    ]


def step_of(methods: Mapping[str, Errors]) -> float:
    """The least standard deviation of differences that is believed: the smallest step between these errors."""
    return resolution([error for errors in methods.values() for error in errors.values()])


def told_apart(pairs: Mapping[tuple[str, str], Sequence[float]], step: float) -> set[tuple[str, str]]:
    """The pairs whose differences a paired t test tells from 0, after Holm's correction for the number of pairs."""
    rejected = holm([paired_test(found, least_sd=step) for found in pairs.values()], LEVEL)
    return {pair for pair, is_rejected in zip(pairs, rejected, strict=True) if is_rejected}


def mean_difference(found: Sequence[float], step: float) -> Interval:
    """The mean of paired differences with its 95 % interval."""
    return welch_interval([found], [1.0], least_sd=step)


def differences(methods: Mapping[str, Errors], first: str, second: str) -> list[float]:
    """Second minus first, for each seed of both."""
    seeds = sorted(set(methods[first]) & set(methods[second]))
    return [methods[second][seed] - methods[first][seed] for seed in seeds]


def _behind(methods: Mapping[str, Errors], name: str, first: str, step: float) -> Interval | None:
    found = differences(methods, first, name)
    if name == first or len(found) < 2:
        return None
    return mean_difference(found, step)


def ranks_table(methods: Mapping[str, Errors], name: str) -> Table:
    """One row a method: its ranks, its mean error with failed runs at chance, and its distance from the first."""
    found = standings(methods)
    rows, records = [], []
    for each in found:
        behind = each.behind
        text = "–" if behind is None else f"{behind.estimate:+.2f} [{behind.low:.2f}, {behind.high:.2f}]"
        rows.append((each.name, each.ranks, f"{each.mean:.2f}", text, str(len(each.errors))))
        records.append(
            {
                "method": each.name, "rank_low": each.low, "rank_high": each.high, "error_mean": each.mean,
                "behind": behind and behind.estimate, "behind_low": behind and behind.low,
                "behind_high": behind and behind.high, "n": len(each.errors),
            }
        )  # fmt: skip
    pairs = [len(set(a.errors) & set(b.errors)) > 1 for a, b in itertools.combinations(found, 2)]
    few = f"; {len(pairs) - sum(pairs)} more have fewer than two seeds in common" if not all(pairs) else ""
    notes = [
        "Ranks: those that the runs leave open. Two methods are told apart if a t test on their errors, paired by seed,"
        f" stays below {LEVEL:.0%} after Holm's correction for {plural(sum(pairs), 'pair')}{few}; ranges that overlap"
        " are ties. A failed run counts as chance.",
        "Behind the first: the mean difference from the method with the smallest mean error, paired by seed, and its"
        " 95 % interval, which is not corrected for the number of methods.",
    ]
    if len({frozenset(each.errors) for each in found}) > 1:
        notes.append(
            "Not all methods have the same seeds: ranks and differences are of the seeds that two have in"
            " common, means of all that a method has."
        )
    columns = ("method", "rank", "test error, failed at chance (%)", "behind the first", "n")
    return tabulate("Which methods the runs tell apart", columns, rows, notes, records, name)


LOG_BELOW = 10.0
"""An error in percent: where one is below, the axis is logarithmic from 1 on, so that small ones are told apart."""
TICKS = (0, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""Of that axis, which starts at 0 or at the last of them from 1 on that is below every error."""


def ranks_figure(methods: Mapping[str, Errors], colors: Mapping[str, str]) -> Any:
    """Every run's error as a dot and each method's mean, in the order of the means, with the ranks beside."""
    found: Sequence[Standing] = standings(methods)
    with style.new_figure(7.6, 0.24 * len(found) + 1.4) as figure:
        axes = figure.subplots()
        for place, each in enumerate(found):
            values = list(each.errors.values())
            axes.plot(values, [place] * len(values), "o", color=colors[each.name], markersize=4, alpha=0.5)
            axes.plot([each.mean], [place], "|", color="black", markersize=11)
        axes.set_yticks(range(len(found)), [f"{style.text(each.name)}   [{each.ranks}]" for each in found], fontsize=8)
        if (least := min(error for each in found for error in each.errors.values())) < LOG_BELOW:
            axes.set_xscale("symlog", linthresh=1.0)
            axes.set_xlim(left=max((tick for tick in TICKS if 1 <= tick < least), default=0))
            first, last = axes.get_xlim()
            ticks = [tick for tick in TICKS if first <= tick <= last]
            axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
            axes.set_xticks([], minor=True)
        axes.invert_yaxis()
        axes.set_xlabel("test error (%)")
        figure.supxlabel(
            "A dot: a run, failed ones at chance. Bar: the mean. In brackets: the ranks left open.", fontsize=8.5
        )
    return figure
