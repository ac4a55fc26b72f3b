"""Method x initialization: whether a gain is the method's or that of its scale."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from farkas_exp.machine.output import plural
from farkas_exp.report.arms import mean_sd
from farkas_exp.report.methods import Arms
from farkas_exp.report.render import Report
from farkas_exp.report.statistics import Summary, summarize
from farkas_exp.report.tables import Cell, Table, cell, tabulate
from farkas_exp.runs import RunRecord
from farkas_exp.studies.without_normalization.arms import arms_of
from farkas_exp.studies.without_normalization.comparison import (
    Method,
    choice_notes,
    errors_of,
    find_methods,
    with_ranks,
)
from farkas_exp.studies.without_normalization.ranking import (
    LEVEL,
    Errors,
    differences,
    mean_difference,
    step_of,
    told_apart,
)

NAME = "initializations"


def report(records: Sequence[RunRecord], arms: Arms | None = None) -> Report:
    """Methods by initializations, what each method gains over the first, and which pairs the runs tell apart."""
    arms = arms or arms_of(f"{NAME}_test")
    methods, notes = find_methods(records, arms, NAME)
    gains = gains_table(errors_of(methods), arms.order)
    tables = (crossed_table(methods, arms.order, notes), *([gains] if gains.records else []))
    return with_ranks(NAME, tables, methods, {})


def crossed_table(methods: Sequence[Method], order: Sequence[str], notes: Sequence[str] = ()) -> Table:
    """A row for each method, a column for each initialization; the label of a pair is "method, initialization"."""
    found = {method.name: method for method in methods}
    rows_of, columns_of = _axes(order)
    rows, records = [], []
    for row in rows_of:
        cells: list[Cell | str] = [row]
        for column in columns_of:
            method = found.get(f"{row}, {column}")
            test = summarize([*method.errors.values()]) if method else None
            cells.append(_pair(method, test))
            if method is not None:
                own: dict[str, Any] = {"best_rate": method.best_rate, "n": len(method.errors), "failed": method.failed}
                error = {"error_mean": test and test.mean, "error_sd": test and test.sd}
                records.append({"method": row, "initialization": column, **error, **own})
        rows.append(cells)
    said = (
        "Test error in percent at the pair's own best rate, mean ± standard deviation, failed runs at chance; below it"
        " the rate, the number of runs, and how many of them failed. A method's own gain is what it has over the plain"
        " network with the same initialization.",
        *choice_notes(methods),
    )
    heads = ("method", *columns_of)
    return tabulate("Method and initialization", heads, rows, (*said, *notes), records, NAME)


def gains_table(errors: Mapping[str, Errors], order: Sequence[str]) -> Table:
    """What each method gains over the first one with the same initialization, paired by seed.

    Args:
        errors: in percent by seed, of each pair of a method and an initialization that has runs.
        order: the labels of all pairs.
    """
    (first, *others), columns = _axes(order)
    found: dict[tuple[str, str], list[float]] = {}
    for row, column in itertools.product(others, columns):
        pair = f"{row}, {column}", f"{first}, {column}"
        if pair[0] in errors and pair[1] in errors and len(gains := differences(errors, *pair)) > 1:
            found[row, column] = gains
    step = step_of(errors)
    apart = told_apart(found, step)
    cells, records = {}, []
    for pair, gains in found.items():
        gain, is_apart = mean_difference(gains, step), pair in apart
        lines = f"{gain.estimate:+.2f}", f"[{gain.low:.2f}, {gain.high:.2f}]"
        cells[pair] = cell(*lines, marker="*" if is_apart else "", strong=is_apart)
        records.append(
            {"method": pair[0], "initialization": pair[1], "gain": gain.estimate, "gain_low": gain.low,
             "gain_high": gain.high, "n": len(gains), "told_apart": is_apart}
        )  # fmt: skip
    rows = [(row, *(cells.get((row, column), "–") for column in columns)) for row in others]
    note = (
        f"The error of {first} minus the method's, with the same initialization, in percentage points: the mean over"
        " the seeds of both, failed runs at chance, and its 95 % interval, not corrected for the number of pairs. *:"
        f" told apart by a paired t test below {LEVEL:.0%} after Holm's correction for {plural(len(found), 'pair')}."
    )
    return tabulate(f"Gain over {first}", ("method", *columns), rows, (note,), records, f"{NAME}_gains")


def _axes(order: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods and the initializations of labels "method, initialization"."""
    parts = [label.partition(", ") for label in order]
    return list(dict.fromkeys(part[0] for part in parts)), list(dict.fromkeys(part[2] for part in parts))


def _pair(method: Method | None, test: Summary | None) -> Cell:
    if method is None or test is None:
        return cell("–")
    failed = f", {method.failed} failed" if method.failed else ""
    return cell(mean_sd(test), f"lr {method.best_rate:g}, n = {test.n}{failed}")
