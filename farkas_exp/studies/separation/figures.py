"""The separation paper's figures over depth and width: 1, 2 and 5 (heat maps), 3 (CIFAR-10), 4 (all weights zero)."""

from collections.abc import Sequence
from dataclasses import replace

from farkas_exp.machine.errors import UserError
from farkas_exp.report.kinds import ANY, Column, Kind, Kinds, kinds_report
from farkas_exp.report.maps import deep_narrow_figure, deep_narrow_table, grids
from farkas_exp.report.render import Report
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import setting
from farkas_exp.studies.separation.table1 import COLUMNS, KINDS, PINNED

DEPTHS = (2, 10, 25, 30, 40)
FIGURE3 = {
    "ReLU": ((0.72, 0.82, 0.10, 0.10, 0.10), (0.60, 0.60, 0.10, 0.10, 0.10)),
    "BN": ((0.91, 0.82, 0.70, 0.67, 0.60), (0.57, 0.54, 0.54, 0.53, 0.45)),
    "Sep-UP": ((0.69, 0.79, 0.74, 0.70, 0.68), (0.59, 0.57, 0.54, 0.53, 0.53)),
}
"""Figure 3: accuracy on training and validation images by depth."""
_SHOWN = ("final train acc.", "final val. acc.", "dead units", "dead points")
_COLUMNS = [Column(name, COLUMNS[name], ".3f") for name in _SHOWN]


def grid(records: Sequence[RunRecord]) -> Report:
    """Figures 1, 2 and 5: heat maps of all arms over depth and width, perceptrons or convolutions."""
    found, notes = grids(records, KINDS, Kinds([_of_convolutions(kind) for kind in KINDS.rows], PINNED))
    if not found:
        raise UserError("runs_dir: no finished run of a network of constant width; see experiment=sep_moons_grid")
    table = deep_narrow_table(found, "separation_grid", notes)
    return Report("separation_grid", (table,), {"separation_grid": lambda: deep_narrow_figure(found)})


def cifar_depth(records: Sequence[RunRecord]) -> Report:
    """Figure 3: one row per arm and depth."""
    depths = sorted({*DEPTHS, *(d for run in records if isinstance(d := setting(run.config, "model.depth"), int))})
    rows = [_at_depth(kind, depth) for kind in KINDS.rows for depth in depths]
    notes = ("Accuracies of the last epoch; the validation images of the paper are the test set here.",)
    papers = {"dataset.name": "cifar10", "model.width": 10, "epochs": 50, "batch_size": 1024}
    title = "Convolutional networks of constant width over depth"
    return kinds_report("sep_cifar_depth", title, records, Kinds(rows, PINNED), _COLUMNS, notes, papers)


def _at_depth(kind: Kind, depth: int) -> Kind:
    """A row of two moons with convolutions, at one depth."""
    found = FIGURE3.get(kind.label, ()) if depth in DEPTHS else ()
    paper = {head: f"{values[DEPTHS.index(depth)]:.2f}" for head, values in zip(_SHOWN, found, strict=False)}
    needs = {**_of_convolutions(kind).needs, "model.depth": depth}
    return replace(kind, label=f"{kind.label}, {depth} layers", needs=needs, paper=paper)


def _of_convolutions(kind: Kind) -> Kind:
    network = str(kind.needs["model.name"]).replace("mlp", "rect_conv")
    return replace(kind, needs={**kind.needs, "model.name": network}, paper={})


def zero_init(records: Sequence[RunRecord]) -> Report:
    """Figure 4: one row per network, depth and width; every other setting that differs is in its label."""
    needs = {"init.name": "zero", "dropout.": ANY, "regularizer.": ANY}
    kinds = Kinds(
        (
            Kind("all zero", {"model.name": "mlp", **needs}),
            Kind("all zero, Farkas", {"model.name": "farkas_mlp", "aggregation.": ANY, **needs}),
        ),
        PINNED,
    )
    notes = ("The paper: Sep-UP with rho = 0.01 and annealed dropout trains up to about 70 layers at width 25.",)
    papers = {"dataset.name": "moons", "epochs": 5000, "regularizer.name": "sep_up", "regularizer.rho": 0.01}
    title = "Two moons, all weights and biases zero"
    return kinds_report("sep_zero_init", title, records, kinds, _COLUMNS, notes, papers)
