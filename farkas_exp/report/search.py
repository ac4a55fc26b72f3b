"""The settings of a search, ranked by their error on images held out of the training set."""

from collections.abc import Sequence

from farkas_exp.machine.errors import UserError
from farkas_exp.report.arms import group_arms
from farkas_exp.report.curves import curves_figure
from farkas_exp.report.render import Report
from farkas_exp.report.tables import Table, cell
from farkas_exp.runs import RunRecord
from farkas_exp.runs.best import overrides_text, rank, unequal_seeds


def report(records: Sequence[RunRecord]) -> Report:
    """One row per setting, the best first, and the curves of all."""
    ranked = rank(records)
    if not ranked:
        raise UserError("runs_dir: no run there is done and has held images out; search with dataset.validation=0.1")
    rows, flat = [], []
    for candidate in ranked:
        spread = "" if candidate.sd is None else f" ± {candidate.sd:.2f}"
        lines = [f"{candidate.mean:.2f}{spread}"] + ["failed ones at chance"] * bool(candidate.failed)
        rows.append(
            (cell(overrides_text(candidate)), cell(*lines), cell(str(candidate.n)), cell(str(candidate.failed)))
        )
        flat.append({**candidate.values, "validation_error": candidate.mean, "sd": candidate.sd, "n": candidate.n,
                     "failed": candidate.failed})  # fmt: skip
    notes: tuple[str, ...] = (
        "Mean ± standard deviation of the error on held-out images over n seeds, a failed run at chance.",
    )
    if unequal := unequal_seeds(ranked):
        notes += (f"Not settled: {unequal}.",)
    columns = ("setting", "validation error (%)", "n", "failed")
    table = Table("The settings of the search, the best first", columns, tuple(rows), notes, tuple(flat), "search")
    held_out = [run for run in records if run.evaluated_on == "validation"]
    return Report("search", (table,), {"search": lambda: curves_figure(group_arms(held_out))})
