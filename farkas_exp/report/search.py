"""The settings of a search, ranked by their error on images held out of the training set."""

from collections.abc import Sequence

from farkas_exp.machine.errors import UserError
from farkas_exp.report.arms import group_arms
from farkas_exp.report.curves import curves_figure
from farkas_exp.report.render import Report
from farkas_exp.report.tables import cell, tabulate
from farkas_exp.runs import RunRecord
from farkas_exp.runs.best import overrides_text, rank, unequal_seeds


def report(records: Sequence[RunRecord]) -> Report:
    """One row per setting, the best first, and the curves of all."""
    ranked = rank(records)
    if not ranked:
        raise UserError("runs_dir: no run there is done and has held images out; search with dataset.validation=0.1")
    rows, flat = [], []
    for each in ranked:
        error = f"{each.mean:.2f}" + ("" if each.sd is None else f" ± {each.sd:.2f}")
        lines = (error, "failed ones at chance") if each.failed else (error,)
        rows.append((overrides_text(each), cell(*lines), str(each.n), str(each.failed)))
        flat.append({**each.values, "validation_error": each.mean, "sd": each.sd, "n": each.n, "failed": each.failed})
    notes = ["Mean ± standard deviation of the error on held-out images over n seeds, a failed run at chance."]
    if unequal := unequal_seeds(ranked):
        notes.append(f"Not settled: {unequal}.")
    columns = ("setting", "validation error (%)", "n", "failed")
    table = tabulate("The settings of the search, the best first", columns, rows, notes, flat, "search")
    held_out = [run for run in records if run.evaluated_on == "validation"]
    return Report("search", (table,), {"search": lambda: curves_figure(group_arms(held_out))})
