"""Training without normalization: every method at its own best learning rate, and the range of rates that it tolerates.

The runs are those in the settings of `experiment=without_normalization`: the search, with its errors on held-out
training images, and the test, each method at the rate that the search has found. A failed run counts as chance wherever
methods or rates are ranked.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from farkas_exp.machine.errors import UserError
from farkas_exp.report import style
from farkas_exp.report.arms import mean_sd, pretty
from farkas_exp.report.methods import Arms
from farkas_exp.report.render import Report
from farkas_exp.report.statistics import Summary, summarize
from farkas_exp.report.tables import Cell, Table, cell, tabulate
from farkas_exp.runs import DONE, RunRecord, query
from farkas_exp.studies.without_normalization.arms import CHOSEN, COMPARISONS, arms_of
from farkas_exp.studies.without_normalization.costs import COLUMNS, Cost, known_costs
from farkas_exp.studies.without_normalization.ranking import ranks_figure, ranks_table

SIZES = ("model.blocks", "model.widths", "model.depth", "model.width", "model.patch")
MARGIN = 5.0
"""A rate is usable if its held-out error is at most so many percentage points above the method's best."""


def shared_setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all methods share: the data, the sizes of the network and the length of the training."""
    flat = query.deciding_settings(config)
    sizes = {key: flat.get(key) for key in (*SIZES, "lr.milestones", "lr.gamma")}
    return {key: value for key, value in query.budget(config).items() if key not in CHOSEN} | sizes


@dataclass(frozen=True)
class Method:
    """One method: the runs of its search by learning rate, and its runs on the test set.

    Only runs with a result count; `open_runs` is the number of the others.
    """

    name: str
    search: Mapping[float, tuple[RunRecord, ...]]
    tests: tuple[RunRecord, ...]
    open_runs: int
    cost: Cost

    @property
    def runs(self) -> list[RunRecord]:
        """All that count."""
        return [*self.tests, *(run for runs in self.search.values() for run in runs)]

    @property
    def color(self) -> str:
        """Vermilion for plain networks, and blue for those with Farkas layers."""
        network = str(query.setting(self.runs[0].config, "model.name"))
        return style.COLORS["vermilion" if query.is_plain(network) else "blue"]

    @property
    def held_out(self) -> dict[float, float]:
        """The mean error on held-out images by rate, in percent, over all runs, a failed one at chance."""
        return {rate: fmean(map(query.ranked_error, runs)) for rate, runs in self.search.items()}

    @property
    def searched_seeds(self) -> dict[float, frozenset[int]]:
        """The seeds of the search by rate."""
        return {rate: frozenset(run.seed for run in runs) for rate, runs in self.search.items()}

    @property
    def best_rate(self) -> float | None:
        """The rate with the smallest error on held-out images, the smaller one of equals; None without a search."""
        return min(self.held_out.items(), key=lambda item: (item[1], item[0]))[0] if self.search else None

    @property
    def at_best(self) -> list[RunRecord]:
        """The runs on the test set at the best rate; those at another rate do not count."""
        return [run for run in self.tests if query.setting(run.config, "lr.value") == self.best_rate]

    @property
    def test_error(self) -> Summary | None:
        """Over the runs at the best rate that have not failed."""
        return summarize([query.outcome(run, "test_error") for run in self.at_best if not query.has_failed(run)])

    @property
    def ranks_with(self) -> float | None:
        """The mean test error at the best rate, a failed run at chance: the figure by which methods are ranked."""
        return fmean(map(query.ranked_error, self.at_best)) if self.at_best else None

    @property
    def errors(self) -> dict[int, float]:
        """The test error at the best rate by seed, a failed run at chance."""
        return {run.seed: query.ranked_error(run) for run in self.at_best}

    @property
    def failed(self) -> int:
        """How many of the runs on the test set have failed."""
        return sum(map(query.has_failed, self.at_best))

    @property
    def usable(self) -> list[float]:
        """The rates around the best one, without a gap in the grid, whose held-out error is close to the best."""
        errors, best = self.held_out, self.best_rate
        if best is None or errors[best] >= max(map(query.trains_below, self.search[best])):
            return []
        rates = sorted(errors)
        good = [errors[rate] <= errors[best] + MARGIN for rate in rates]
        low = high = rates.index(best)
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(rates) and good[high + 1]:
            high += 1
        return rates[low : high + 1]

    @property
    def capacity(self) -> float | None:
        """The learning-rate capacity: the largest usable rate over the smallest; None where none is usable."""
        return self.usable[-1] / self.usable[0] if self.usable else None

    @property
    def at_an_end(self) -> bool:
        """Whether the usable range reaches an end of the grid, so that the capacity is only a lower bound."""
        return bool(self.usable) and bool({self.usable[0], self.usable[-1]} & {min(self.search), max(self.search)})


def report(records: Sequence[RunRecord], arms: Arms | None = None, name: str = "without_normalization") -> Report:
    """Every method at its own best learning rate, and the error over the rates; see `find_methods`."""
    methods, notes = find_methods(records, arms, name)
    figures = {name: lambda: rates_figure(methods)} if any(m.search for m in methods) else {}
    return with_ranks(name, (comparison_table(methods, notes),), methods, figures)


transformers_report = partial(report, name="transformers")
"""The same of vision transformers."""


def errors_of(methods: Sequence[Method]) -> dict[str, dict[int, float]]:
    """The errors by seed of each method that has runs on the test set (`Method.errors`)."""
    return {method.name: method.errors for method in methods if method.errors}


def with_ranks(name: str, tables: Sequence[Table], methods: Sequence[Method], figures: Mapping[str, Any]) -> Report:
    """The report of some tables and, for two or more methods, of which of them the runs tell apart."""
    errors = errors_of(methods)
    if len(errors) < 2:
        return Report(name, tuple(tables), figures)
    ranks, colors = f"{name}_ranks", {method.name: method.color for method in methods if method.errors}
    return Report(name, (*tables, ranks_table(errors, ranks)), {**figures, ranks: lambda: ranks_figure(errors, colors)})


def find_methods(
    records: Sequence[RunRecord], arms: Arms | None = None, comparison: str = "without_normalization"
) -> tuple[list[Method], list[str]]:
    """The methods that have runs in one setting, as they rank, and what was left out (`Arms.choose`).

    The `arms` are by default those of the comparison's file.
    """
    chosen = (arms or arms_of(COMPARISONS[comparison])).choose(records)
    if not chosen.runs:
        raise UserError("runs_dir: no run there is of a method of this comparison")
    methods, costs = [], known_costs(comparison, chosen.runs)
    for name, runs in chosen.runs.items():
        done = [run for run in runs if run.state in DONE]
        search: dict[float, list[RunRecord]] = {}
        for run in done:
            if run.evaluated_on == "validation":
                search.setdefault(query.setting(run.config, "lr.value"), []).append(run)
        tests = tuple(run for run in done if run.evaluated_on == "test")
        by_rate = {rate: tuple(search[rate]) for rate in sorted(search)}
        methods.append(Method(name, by_rate, tests, len(runs) - len(done), costs[name]))

    def order(method: Method) -> tuple[float, float, str]:
        best, test = method.best_rate, method.ranks_with
        return (math.inf if test is None else test, math.inf if best is None else method.held_out[best], method.name)

    return sorted(methods, key=order), chosen.notes


def comparison_table(methods: Sequence[Method], notes: Sequence[str] = ()) -> Table:
    """One row a method, the one with the smallest test error first, a failed run at chance."""
    columns = (
        "method", "best rate", "held-out error (%)", "test error (%)", "n", "failed", "usable rates", "capacity",
        *COLUMNS,
    )  # fmt: skip
    rows, records = [], []
    for method in methods:
        best, test, capacity = method.best_rate, method.test_error, method.capacity
        held_out = None if best is None else method.held_out[best]
        record = {
            "method": method.name, "best_rate": best, "held_out_error": held_out,
            "test_error_mean": test and test.mean, "test_error_sd": test and test.sd, "n": test.n if test else 0,
            "failed": method.failed, "ranks_with": method.ranks_with, "capacity": capacity,
            "capacity_is_lower_bound": method.at_an_end, **vars(method.cost),
            **{f"held_out_error_at_{rate:g}": error for rate, error in method.held_out.items()},
        }  # fmt: skip
        rows.append(
            [
                method.name,
                "–" if best is None else f"{best:g}",
                "–" if held_out is None else f"{held_out:.2f}",
                _test_cell(method),
                str(record["n"]),
                str(method.failed),
                f"{method.usable[0]:g} – {method.usable[-1]:g}" if method.usable else "–",
                "–" if capacity is None else f"{'≥ ' if method.at_an_end else ''}{capacity:.3g}",
                *method.cost.texts(),
            ]
        )
        records.append(record)
    title = "Training without normalization: every method at its own best learning rate"
    failures = _failure_note([run for method in methods for run in method.runs])
    said = (*choice_notes(methods), failures, _USABLE, _step_note(methods), *notes)
    return tabulate(title, columns, rows, said, records)


def _test_cell(method: Method) -> Cell:
    """The test error of the runs that trained; below it, where some failed, the figure that the method ranks with."""
    text = "–" if method.test_error is None else mean_sd(method.test_error)
    if not method.failed:
        return cell(text)
    return cell(text, f"ranks with {method.ranks_with:.2f}", marker="*")


def choice_notes(methods: Sequence[Method]) -> tuple[str, ...]:
    """The setting, how the rates were chosen, what their choice lacks, and which runs are left out."""
    first = next((run for method in methods for run in method.runs), None)
    notes = [_setting_note(first.config), _CHOICE] if first else [_CHOICE]
    times = Counter(rate for method in methods for rate in method.search)
    grid = {rate for rate, count in times.items() if 2 * count >= len(methods)}
    if lacking := [method.name for method in methods if grid - set(method.search)]:
        notes.append(
            f"Not complete: of the {len(grid)} rates that most were searched at, some lack: {'; '.join(lacking)}."
        )
    if extended := [method.name for method in methods if set(method.search) - grid]:
        notes.append(f"Searched at further rates than most: {'; '.join(extended)}.")
    if unequal := [method.name for method in methods if len(set(method.searched_seeds.values())) > 1]:
        notes.append(f"Rates compared over unequal seeds, where a mean over fewer may be luck: {'; '.join(unequal)}.")
    if waiting := sum(method.open_runs for method in methods):
        notes.append(f"Runs that have no result yet: {waiting}.")
    at_ends = [m.name for m in methods if len(m.search) > 1 and m.best_rate in (min(m.search), max(m.search))]
    if at_ends:
        notes.append(f"The best rate lies at an end of its grid: {'; '.join(at_ends)}. A rate beyond it may be better.")
    if others := sum(len(method.tests) - len(method.at_best) for method in methods):
        notes.append(f"Left out, runs on the test set at a rate that is not the best: {others}.")
    return tuple(notes)


_CHOICE = (
    "The rate is chosen on images held out of the training set; the test error, mean ± standard deviation of n runs, is"
    " that of networks trained on the whole training set with it."
)
_USABLE = (
    f"Usable: the rates of the grid next to each other, around the best, whose held-out error is at most {MARGIN:g}"
    " points above the best; none where the best is not below nine tenths of chance. Capacity: largest over smallest;"
    " ≥ where the range reaches an end of the grid."
)


def _failure_note(runs: Sequence[RunRecord]) -> str:
    """What has counted as failed, by the rules of these runs."""
    rules = sorted({query.settings_in_full(run.config)["failure.epochs"] for run in runs})
    how = " or ".join(map(str, filter(None, rules)))
    chance = f", or the error was at chance or worse in {how} epochs" if how else ""
    where = "with failure.epochs=0" if how else "failure.epochs=0"
    kept = f" A run at chance has not failed ({where}) and counts in the mean." if 0 in rules else ""
    return (
        f"* Failed (the loss was not finite{chance}): left out of the mean and counted.{kept} Methods and rates rank"
        " with a failed run at chance."
    )


def _step_note(methods: Sequence[Method]) -> str:
    first = next((method.name for method in methods if method.cost.step == 1), "a method without runs here")
    is_measured = any(method.cost.step is not None for method in methods)
    how = (
        f"the time of a training step over that of {first}, measured right behind it" if is_measured else "not measured"
    )
    return (
        f"Relative step: {how} (report costs). Multiply-adds: of an image's forward pass. Needs: beside what every"
        " network has."
    )


def _setting_note(config: Mapping[str, Any]) -> str:
    sizes = [pretty(key, value) for key in SIZES if (value := query.setting(config, key))]
    parts = [f"dataset {query.setting(config, 'dataset.name')}", f"{config.get('epochs')} epochs",
             f"batches of {config.get('batch_size')}", *sizes]  # fmt: skip
    return "Setting: " + ", ".join(parts) + "."


_CAPTION = (
    f"Ring: the best rate. Bar: the usable rates, within {MARGIN:g} points of the best. Cross: a run failed."
    " Grey: the other methods."
)


def rates_figure(methods: Sequence[Method]) -> Any:
    """Held-out error against the learning rate: a panel for each method, the others in grey behind it."""
    shown = [method for method in methods if method.search]
    columns = min(5, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    with style.new_figure(2.1 * columns + 0.8, 1.8 * rows + 1.0) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, method in zip(panels, shown, strict=False):
            for other in shown:
                axes.plot(list(other.held_out), list(other.held_out.values()), color="#D8D8D8", linewidth=0.8)
            _draw(axes, method)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(shown) - columns) : len(shown)]:  # the lowest of each column
            axes.tick_params(labelbottom=True)
        panels[0].set_xscale("log")
        panels[0].set_ylim(-3, 103)
        figure.suptitle("Training without normalization: error on held-out images by learning rate")
        figure.supxlabel("learning rate\n" + _CAPTION, fontsize=8.5)
        figure.supylabel("error on held-out images (%)", fontsize=10)
    return figure


def _draw(axes: Any, method: Method) -> None:
    color = method.color
    rates, errors = list(method.held_out), list(method.held_out.values())
    axes.plot(rates, errors, color=color, marker="o", markersize=4)
    broken = [rate for rate in rates if any(map(query.has_failed, method.search[rate]))]
    axes.plot(broken, [method.held_out[rate] for rate in broken], "x", color="black", markersize=7, zorder=3)
    best = method.best_rate
    assert best is not None
    axes.plot([best], [method.held_out[best]], "o", markersize=9, markerfacecolor="none", markeredgecolor="black")
    if method.usable:
        ends = [method.usable[0] / 1.05, method.usable[-1] * 1.05]  # a bar shorter than some pixels may not be drawn
        axes.plot(ends, [0, 0], color=color, linewidth=6, alpha=0.35, solid_capstyle="round")
    axes.set_title(style.text(method.name), fontsize=9.5)
