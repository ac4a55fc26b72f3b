"""The paper's tables with our runs: ours beside the paper's number, the difference, what failed or is missing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from farkas_exp.machine.output import plural
from farkas_exp.report.arms import Arm, arms_table, failed_text, failure_note, group_arms, mean_sd, progress_text
from farkas_exp.report.tables import Cell, Table, cell, tabulate
from farkas_exp.studies.farkas.filling import Filled, arm_text, describe_setting, pretty_setting
from farkas_exp.studies.farkas.paper import PaperCell


def paper_table(filled: Filled) -> Table:
    """The table of the paper with our numbers in it.

    A cell reads `6.87 ± 0.12 (3)`: mean, standard deviation and number of the runs that trained, with an asterisk
    where failed ones are left out; below it the paper's number and ours minus the paper's. A difference is shown on
    the paper's dataset only.
    """
    table = filled.table
    rows = [
        (row.label, *(_cell(at, filled) if (at := table.cell(row, column)) else "" for column in table.columns))
        for row in table.rows
    ]
    records = [_record(each, filled) for each in table.cells]
    return tabulate(table.title, ("", *table.columns), rows, _notes(filled), records, table.name)


def other_arms_tables(filled: Filled) -> list[Table]:
    """The arms of the same setting that the paper's table does not have (the control arms), and those held out of it.

    The latter are the runs for its cells whose error is not a test error.
    """
    found = []
    for runs, title, name in (
        (filled.others, f"Other arms in the setting of {filled.table.short}", "others"),
        (filled.held_out, f"Errors on held-out images: no part of {filled.table.short}", "held_out"),
    ):
        if runs:
            arms = group_arms(runs)
            arms = group_arms(runs, {arm.runs[0].identity: arm_text(arm.config) for arm in arms})
            found.append(replace(arms_table(arms, title), name=f"{filled.table.name}_{name}"))
    return found


def cell_arm(wanted: PaperCell, filled: Filled) -> Arm:
    """The runs of a cell as an arm."""
    runs = filled.runs.get(wanted, ())
    return Arm(wanted.label, runs[0].identity if runs else "", runs[0].config if runs else {}, runs)


def is_papers_dataset(filled: Filled) -> bool:
    """Whether the runs used the data of the paper's table, all of them."""
    return not any(key.startswith("dataset.") for key in filled.deviations)


def _cell(wanted: PaperCell, filled: Filled) -> Cell:
    arm = cell_arm(wanted, filled)
    lines = [_ours(arm)]
    if wanted.value is not None:
        difference = _difference(wanted, arm) if is_papers_dataset(filled) else None
        top5 = f"/{wanted.top5:.2f}" if wanted.top5 is not None else ""
        number = f"paper {wanted.value:.2f}{top5}{'*' if wanted.failed else ''}"
        lines.append(number if difference is None else f"{number}, {signed(difference)}")
    if arm.finished or arm.failed:
        lines += [progress_text(run) for run in arm.unfinished]
    return cell(*lines, marker="*" if arm.failed else "")


def _ours(arm: Arm) -> str:
    summary = arm.summary("test_error")
    if summary is not None:
        text = mean_sd(summary)
        top5 = arm.summary("test_error_top5")
        return f"{text}{f' / {mean_sd(top5)}' if top5 else ''} ({summary.n})"
    if arm.failed:
        return failed_text(arm)
    return ", ".join(dict.fromkeys(progress_text(run) for run in arm.unfinished)) or "missing"


def _difference(wanted: PaperCell, arm: Arm) -> float | None:
    summary = arm.summary("test_error")
    return None if summary is None or wanted.value is None else summary.mean - wanted.value


def signed(value: float) -> str:
    """+0.12 or −0.12, with a true minus sign; 0.00 has none."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"


def _notes(filled: Filled) -> list[str]:
    table = filled.table
    papers = "; below it the paper's number" * table.has_numbers
    papers += ", and ours − paper's" * (table.has_numbers and is_papers_dataset(filled))
    notes = [f"Mean ± standard deviation (n) of the last epoch's error{papers}."]
    notes += narrowing_notes(filled)
    notes += [failure_note(arm) for each in table.cells if (arm := cell_arm(each, filled)).failed]
    notes += ["* at a number of the paper: one run of the paper's failed and is left out of it."] * any(
        each.failed for each in table.cells
    )
    for setting, count in filled.left_out:
        chosen = ", ".join(pretty_setting(k, v) for k, v in setting.items()) or "the paper's setting"
        runs = plural(count, "run")
        notes.append(f"Left out: {runs} in another setting ({chosen}); choose it with KEY=VALUE on the command line.")
    if filled.again:
        runs = plural(filled.again, "run")
        notes.append(f"Left out: {runs} of a seed that the cell has from another run, in settings that mean the same.")
    if filled.held_out:
        runs = plural(len(filled.held_out), "run")
        notes.append(f"Left out: {runs} whose error is on held-out images, not on the test set.")
    if filled.apart:
        runs = plural(filled.apart, "run")
        notes.append(
            f"In no cell: {runs} of these networks with other settings than any cell's (the report arms shows them)."
        )
    return [*notes, *table.notes]


def narrowing_notes(filled: Filled) -> list[str]:
    """Where we depart from the paper: in the setting, and in the number of runs a cell."""
    notes = []
    if filled.deviations:
        notes.append(f"Not the paper's setting: {describe_setting(filled.deviations, filled.table)}.")
    if filled.runs and not is_papers_dataset(filled) and filled.table.has_numbers:
        notes.append("Other data than the paper's: no differences are shown.")
    counts = [len(filled.runs.get(each, ())) for each in filled.table.cells]
    low, high, wanted = min(counts), max(counts), filled.table.runs_per_cell
    if filled.runs and low < wanted:
        empty = sum(count == 0 for count in counts)
        there = f"{low}" if low == high else f"{low} to {high}"
        gaps = f"; {empty} of {len(counts)} cells have none" if empty else ""
        whose = "paper" if filled.table.has_numbers else "wanted"
        notes.append(f"Runs in a cell: {there} ({whose}: {wanted}){gaps}.")
    return notes


def _record(wanted: PaperCell, filled: Filled) -> Mapping[str, Any]:
    arm = cell_arm(wanted, filled)
    summary = arm.summary("test_error")
    top5 = arm.summary("test_error_top5")
    return {
        "table": filled.table.name,
        "row": wanted.row.label,
        "column": wanted.column,
        "model": wanted.model,
        "paper": wanted.value,
        "paper_top5": wanted.top5,
        "mean": summary and summary.mean,
        "sd": summary and summary.sd,
        "n": len(arm.finished),
        "difference": _difference(wanted, arm) if is_papers_dataset(filled) else None,
        "top5_mean": top5 and top5.mean,
        "failed": len(arm.failed),
        "unfinished": len(arm.unfinished),
        "seeds": " ".join(str(run.seed) for run in arm.finished),
        "identity": arm.identity,
        "setting": ", ".join(pretty_setting(k, v) for k, v in filled.deviations.items()),
    }
