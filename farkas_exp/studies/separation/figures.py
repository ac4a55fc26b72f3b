"""Figures 3 and 4 of the separation paper as tables: accuracies over the depth, beside the paper's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from farkas_exp.report.kinds import ANY, Column, Kind, Kinds, kinds_table
from farkas_exp.report.render import Report
from farkas_exp.runs import RunRecord
from farkas_exp.studies.separation.table1 import COLUMNS, KINDS, PINNED

DEPTHS = (2, 10, 25, 30, 40)
FIGURE3 = {
    "ReLU": ((0.72, 0.82, 0.10, 0.10, 0.10), (0.60, 0.60, 0.10, 0.10, 0.10)),
    "BN": ((0.91, 0.82, 0.70, 0.67, 0.60), (0.57, 0.54, 0.54, 0.53, 0.45)),
    "Sep-UP": ((0.69, 0.79, 0.74, 0.70, 0.68), (0.59, 0.57, 0.54, 0.53, 0.53)),
}
"""Figure 3: accuracy on training and validation images by depth."""
_SHOWN = ("train acc.", "val. acc.", "dead units", "dead points")
_COLUMNS = [Column(name, COLUMNS[name], ".3f") for name in _SHOWN]


def cifar_depth(records: Sequence[RunRecord]) -> Report:
    """Figure 3: one row per arm and depth."""
    rows = [_at_depth(kind, depth) for kind in KINDS.rows for depth in DEPTHS]
    notes = ("Accuracies of the last epoch; the validation images of the paper are the test set here.",)
    papers = {"dataset.name": "cifar10", "model.width": 10, "epochs": 50, "batch_size": 1024}
    title = "Convolutions of width 10 on CIFAR-10 over depth"
    return Report(
        "sep_cifar_depth",
        (kinds_table("sep_cifar_depth", title, records, Kinds(rows, PINNED), _COLUMNS, notes, papers),),
    )


def _at_depth(kind: Kind, depth: int) -> Kind:
    """A row of two moons with convolutions, at one depth."""
    network = str(kind.needs["model.name"]).replace("mlp", "rect_conv")
    found = FIGURE3.get(kind.label)
    paper = {} if found is None else dict(
        zip(_SHOWN, (f"{values[DEPTHS.index(depth)]:.2f}" for values in found), strict=False)
    )  # fmt: skip
    needs = {**kind.needs, "model.name": network, "model.depth": depth}
    return replace(kind, label=f"{kind.label}, {depth} layers", needs=needs, paper=paper)


_ZERO: dict[str, Any] = {
    "init.name": "zero",
    **dict.fromkeys(("dropout.rate", "dropout.anneal", "init.last_depth_exponent"), ANY),
    **{f"regularizer.{key}": ANY for key in ("name", "strength", "coefficient", "rho", "conv_point", "include_output")},
}


def zero_init(records: Sequence[RunRecord]) -> Report:
    """Figure 4: one row per network, depth and width; every other setting that differs is in its label."""
    kinds = Kinds(
        (
            Kind("all zero", {"model.name": "mlp", "model.depth": ANY, "model.width": ANY, **_ZERO}),
            Kind("all zero, Farkas", {"model.name": "farkas_mlp", "aggregation.name": ANY, "aggregation.margin": ANY,
                                      "model.depth": ANY, "model.width": ANY, **_ZERO}),
        ),
        PINNED,
    )  # fmt: skip
    notes = ("The paper: Sep-UP with rho = 0.01 and annealed dropout trains up to about 70 layers at width 25.",)
    papers = {"dataset.name": "moons", "epochs": 5000, "regularizer.name": "sep_up", "regularizer.rho": 0.01}
    title = "Two moons, all weights and biases zero"
    return Report("sep_zero_init", (kinds_table("sep_zero_init", title, records, kinds, _COLUMNS, notes, papers),))
