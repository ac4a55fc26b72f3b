"""The separation paper's Table 1 with our runs: accuracies of deep, narrow networks on two moons."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from farkas_exp.machine.output import plural
from farkas_exp.registry import DATASETS
from farkas_exp.report.kinds import ANY, METHODS, Column, Kind, Kinds, kinds_table
from farkas_exp.report.landscape import measurement
from farkas_exp.report.maps import layers_of
from farkas_exp.report.render import Report
from farkas_exp.report.tables import Table
from farkas_exp.report.training_figures import RUNNING
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import number, outcome, setting

PAPER: Mapping[str, tuple[float, float, float, float]] = {
    "ReLU": (0.5176, 0.4000, 0.6925, 0.6938),
    "BN": (0.8117, 0.6000, 0.6331, 0.6636),
    "Sep-U": (0.9058, 0.8000, 0.4161, 1.5228),
    "Sep-P": (0.9294, 0.8000, 0.1765, 0.6476),
    "Sep-UP": (0.9882, 0.9333, 0.6988, 1.0810),
}
"""Table 1 of Riera et al. 2019: accuracy on training and validation points, loss on both; one seed."""


def accuracy(run: RunRecord, key: str, best: bool = False) -> float:
    """The accuracy of a run's last epoch, or of its best one, from an error in percent."""
    errors = [number(row.get(key)) for row in run.metrics()] or [math.nan]
    return 1 - (min(filter(math.isfinite, errors), default=math.nan) if best else errors[-1]) / 100


def dead(run: RunRecord, key: str) -> float:
    """The share of `dead_samples`, or of `dead_units` over all layers, after the training of a run."""
    row = measurement(run, last=True)
    layers = [(number(layer.get(key)), number(layer.get("units"))) for layer in layers_of(row)]
    if key == "dead_samples":
        return number(row.get(key)) if layers else math.nan
    units = sum(count for _, count in layers)
    return sum(share * count for share, count in layers) / units if units > 0 else math.nan


def most_dead_points(run: RunRecord) -> float:
    """The largest share of dead points of any layer at any measurement of a run."""
    shares = [number(layer.get("dead_points")) for row in run.diagnostics() for layer in layers_of(row)]
    return max(shares, default=math.nan)


COLUMNS: Mapping[str, Callable[[RunRecord], float]] = {
    "best train acc.": lambda run: accuracy(run, "train_error", best=True),
    "best val. acc.": lambda run: accuracy(run, "test_error", best=True),
    "final train acc.": lambda run: accuracy(run, "train_error"),
    "final val. acc.": lambda run: accuracy(run, "test_error"),
    "train loss": lambda run: outcome(run, "train_loss"),
    "val. loss": lambda run: outcome(run, "test_loss"),
    "dead units": lambda run: dead(run, "dead_units"),
    "dead points": lambda run: dead(run, "dead_samples"),
    "most in a layer": most_dead_points,
}
OF_THE_PAPER = ("best train acc.", "best val. acc.", "train loss", "val. loss")
"""The columns beside which its numbers stand, in the order of `PAPER`."""
SIZES = ((50, 4), (60, 3))
"""Depth and width: Table 1's, and the limit of Sep-UP that the paper names."""


def report(records: Sequence[RunRecord]) -> Report:
    """The paper's Table 1, and the same at 60 layers of 3 units; one table of all runs where none is of these sizes."""
    known = [run for run in records if KINDS.of(run)]
    tested = [run for run in known if run.evaluated_on == "test"]
    by_size: dict[tuple[int, int] | None, list[RunRecord]] = {}
    for run in tested:
        by_size.setdefault((setting(run.config, "model.depth"), setting(run.config, "model.width")), []).append(run)
    shown = {size: by_size[size] for size in SIZES if size in by_size} or {None: tested}
    left_out = len(known) - sum(map(len, shown.values()))
    why = "of another size, or whose error is on held-out points; choose them with KEY=VALUE"
    notes = [f"Left out: {plural(left_out, 'run')} {why}."] if left_out else []
    return Report("separation", tuple(separation_table(runs, size, notes) for size, runs in shown.items()))


def separation_table(
    records: Sequence[RunRecord], size: tuple[int, int] | None = None, more: Sequence[str] = ()
) -> Table:
    """One row per arm in the paper's order: best and last epoch, losses, dead units and points, the paper's numbers."""
    columns = [Column(name, value, ".3f") for name, value in COLUMNS.items()]
    notes = (
        "Accuracies of the best and of the last epoch, losses of the last; the validation points are the test set of"
        " these runs.",
        f"The training figures: {RUNNING}; with one step an epoch, of the network before it.",
        "The paper calls its table maximal performance, of one seed, which is read as the best epoch here. Of which"
        " epoch its losses are it does not say: Sep-UP's 0.6988 is that of a guess, at an accuracy of 0.9882.",
        "Dead points: those that no unit of some layer is active for, after the last epoch; most in a layer: the"
        " largest share at any layer and any measurement.",
        *more,
    )
    data = {name: DATASETS.label(name) for run in records if (name := str(setting(run.config, "dataset.name")))}
    title = ", ".join(data.values()).capitalize() + (f", {size[0]} layers of {size[1]} units" if size else "")
    papers = {"dataset.name": "moons", "model.depth": 50, "model.width": 4, "epochs": 1000}
    name = "separation" if size in (None, SIZES[0]) else f"separation_{size[0]}x{size[1]}"
    kinds = KINDS if size in (None, SIZES[0]) else KINDS.without_paper()
    return kinds_table(name, title, records, kinds, columns, notes, papers)


PINNED = ("model.residual", "normalization.name", "aggregation.", *METHODS)


def _kind(label: str, model: str = "mlp", **needs: Any) -> Kind:
    numbers: dict[str, str] = dict(zip(OF_THE_PAPER, (f"{n:.4f}" for n in PAPER.get(label, ())), strict=False))
    return Kind(label, {"model.name": model} | {key.replace("__", "."): value for key, value in needs.items()}, numbers)


def _separated(name: str, alone: bool = False) -> dict[str, Any]:
    """A separation constraint of whatever strength; the strength is a part of the setting."""
    return {"regularizer__": ANY, "regularizer__name": name, "regularizer__alone": alone}


KINDS = Kinds(
    (
        _kind("ReLU"),
        _kind("BN", normalization__name="batch"),
        _kind("Sep-U", **_separated("sep_u")),
        _kind("Sep-P", **_separated("sep_p")),
        _kind("Sep-UP", **_separated("sep_up")),
        _kind("Sep-UP alone", **_separated("sep_up", alone=True)),
        _kind("Farkas sum", "farkas_mlp", aggregation__name="sum"),
        _kind("Farkas mean", "farkas_mlp", aggregation__name="mean"),
        _kind("Farkas mean + Sep-UP", "farkas_mlp", aggregation__name="mean", **_separated("sep_up")),
        _kind("residual", model__residual=True, init__last_depth_exponent=ANY),
    ),
    PINNED,
)
"""The arms of the paper's Table 1 in its order, and ours behind them."""
