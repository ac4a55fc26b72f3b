"""The separation paper's Table 1 and heat maps with our runs: accuracies of deep, narrow networks on two moons."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from farkas_exp.report.arms import Arm, group_arms, number, setting
from farkas_exp.report.deep_narrow import Grid, Place
from farkas_exp.report.statistics import summarize
from farkas_exp.report.tables import Cell, Table, cell
from farkas_exp.runs import RunRecord

PAPER: Mapping[str, tuple[float, float, float, float]] = {
    "ReLU": (0.5176, 0.4000, 0.6925, 0.6938),
    "BN": (0.8117, 0.6000, 0.6331, 0.6636),
    "Sep-U": (0.9058, 0.8000, 0.4161, 1.5228),
    "Sep-P": (0.9294, 0.8000, 0.1765, 0.6476),
    "Sep-UP": (0.9882, 0.9333, 0.6988, 1.0810),
}
"""Table 1 of Riera et al. 2019: accuracy on training and validation points, loss on both; one seed."""
ORDER = (*PAPER, "Farkas sum", "Farkas mean", "Farkas mean + Sep-UP", "residual")

Values = Callable[[RunRecord], float]


def accuracy(key: str, best: bool) -> Values:
    """The accuracy of a run's last epoch, or of its best one, from an error in percent."""

    def value(run: RunRecord) -> float:
        errors = [number(row.get(key)) for row in run.metrics()]
        if not errors:
            return math.nan
        return 1 - (min(errors) if best else errors[-1]) / 100

    return value


def dead(run: RunRecord, key: str) -> float:
    """The share of `dead_samples`, or of `dead_units` over all layers, in the last measurement of a run."""
    rows = run.diagnostics()
    if not rows:
        return math.nan
    if key == "dead_samples":
        return number(rows[-1].get(key))
    layers = rows[-1]["layers"]
    return sum(layer[key] * layer["units"] for layer in layers) / sum(layer["units"] for layer in layers)


def most_dead_points(run: RunRecord) -> float:
    """The largest share of dead points of any layer at any measurement of a run."""
    shares = [layer["dead_points"] for row in run.diagnostics() for layer in row["layers"]]
    return max(shares, default=math.nan)


COLUMNS: Mapping[str, Values] = {
    "train acc.": accuracy("train_error", best=False),
    "best": accuracy("train_error", best=True),
    "val. acc.": accuracy("test_error", best=False),
    "best val.": accuracy("test_error", best=True),
    "train loss": lambda run: number((run.result or {}).get("train_loss")),
    "dead units": lambda run: dead(run, "dead_units"),
    "dead points": lambda run: dead(run, "dead_samples"),
    "most in a layer": most_dead_points,
}


def separation_table(records: Sequence[RunRecord]) -> Table:
    """One row per arm in the paper's order: last and best epoch, dead units and points, the paper's accuracies."""
    arms = sorted(group_arms(records), key=lambda arm: (_place(arm.label), arm.label))
    rows, flat = [], []
    for arm in arms:
        values = {name: [value(run) for run in arm.finished] for name, value in COLUMNS.items()}
        paper = PAPER.get(arm.label)
        rows.append(
            (
                cell(arm.label),
                *[_mean_and_range(values[name]) for name in COLUMNS],
                cell(str(len(arm.finished))),
                cell(f"{paper[0]:.4f} / {paper[1]:.4f}" if paper else "–"),
            )
        )
        flat.append(_record(arm, values, paper))
    notes = [
        "Mean over n seeds, below it the range. Accuracies of the last and of the best epoch, 85 training and 15"
        " validation points; the training figures are those of the network before the epoch's one update.",
        "Dead points: those that no unit of some layer is active for, after the last epoch; most in a layer: the"
        " largest share at any layer and any measurement. The paper: one seed, train / validation.",
    ]
    columns = ("arm", *COLUMNS, "n", "paper")
    return Table("Two moons, 50 layers of 4 units", columns, tuple(rows), tuple(notes), tuple(flat))


def _place(label: str) -> int:
    return ORDER.index(label) if label in ORDER else len(ORDER)


def _mean_and_range(values: Sequence[float]) -> Cell:
    summary = summarize([value for value in values if math.isfinite(value)])
    if summary is None:
        return cell("–")
    lines = [f"{summary.mean:.3f}"]
    if summary.n > 1:
        lines.append(f"{min(values):.3f}–{max(values):.3f}")
    return cell(*lines)


def _record(arm: Arm, values: Mapping[str, Sequence[float]], paper: Sequence[float] | None) -> dict[str, Any]:
    record: dict[str, Any] = {"arm": arm.label, "identity": arm.identity, "n": len(arm.finished)}
    for name, each in values.items():
        summary = summarize([value for value in each if math.isfinite(value)])
        record[f"{name} mean"], record[f"{name} sd"] = (summary.mean, summary.sd) if summary else (None, None)
    names = ("train acc.", "val. acc.", "train loss", "val. loss")
    return record | {f"paper {name}": value for name, value in zip(names, paper or [None] * 4, strict=True)}


def arm_grids(records: Sequence[RunRecord]) -> list[Grid]:
    """The arms that have runs of more than one depth or width, for heat maps, in the paper's order."""
    by_arm: dict[str, dict[Place, list[RunRecord]]] = {}
    for run in records:
        depth, width = setting(run.config, "model.depth"), setting(run.config, "model.width")
        if run.result and isinstance(depth, int) and isinstance(width, int):
            by_arm.setdefault(str(run.config.get("arm") or run.slug), {}).setdefault((depth, width), []).append(run)
    arms = sorted((name for name, places in by_arm.items() if len(places) > 1), key=lambda name: (_place(name), name))
    return [Grid(arm, {place: tuple(runs) for place, runs in sorted(by_arm[arm].items())}) for arm in arms]
