"""Method x initialization: whether a gain is the method's or that of its scale."""

from collections.abc import Sequence
from typing import Any

from farkas_exp.report.methods import Arms
from farkas_exp.report.render import Report
from farkas_exp.report.tables import Cell, Table, cell
from farkas_exp.runs import RunRecord
from farkas_exp.studies.without_normalization.arms import arms_of
from farkas_exp.studies.without_normalization.comparison import Method, find_methods, with_ranks

NAME = "initializations"


def report(records: Sequence[RunRecord], arms: Arms | None = None) -> Report:
    """A table of methods by initializations, and which pairs the runs tell apart."""
    arms = arms or arms_of(f"{NAME}_test")
    methods, notes = find_methods(records, arms, NAME)
    return with_ranks(NAME, crossed_table(methods, arms.order, notes), methods, {})


def crossed_table(methods: Sequence[Method], order: Sequence[str], notes: Sequence[str] = ()) -> Table:
    """A row for each method, a column for each initialization; the label of a pair is "method, initialization"."""
    found = {method.name: method for method in methods}
    rows_of = list(dict.fromkeys(label.partition(", ")[0] for label in order))
    columns_of = list(dict.fromkeys(label.partition(", ")[2] for label in order))
    rows, records = [], []
    for row in rows_of:
        cells: list[Cell] = [cell(row)]
        for column in columns_of:
            method = found.get(f"{row}, {column}")
            cells.append(_pair(method))
            if method is not None:
                own: dict[str, Any] = {"best_rate": method.best_rate, "n": len(method.errors), "failed": method.failed}
                error = {"error_mean": method.ranks_with}
                records.append({"method": row, "initialization": column, **error, **own})
        rows.append(tuple(cells))
    said = (
        "Test error in percent at the pair's own best rate, failed runs at chance; below it the rate, the number of"
        " runs, and how many of them failed. A method's own gain is what it has over the plain network with the same"
        " initialization.",
    )
    heads = ("method", *columns_of)
    return Table("Method and initialization", heads, tuple(rows), (*said, *notes), tuple(records), NAME)


def _pair(method: Method | None) -> Cell:
    if method is None or method.ranks_with is None:
        return cell("–")
    failed = f", {method.failed} failed" if method.failed else ""
    return cell(f"{method.ranks_with:.2f}", f"lr {method.best_rate:g}, n = {len(method.errors)}{failed}")
