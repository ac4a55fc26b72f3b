"""Deep and narrow multi-layer perceptrons on two moons, plain, with batch norm, tailored, and of Farkas layers."""

from collections.abc import Sequence

from farkas_exp.machine.errors import UserError
from farkas_exp.report.kinds import METHODS, Kind, Kinds
from farkas_exp.report.maps import deep_narrow_figure, deep_narrow_table, grids
from farkas_exp.report.render import Report
from farkas_exp.runs import RunRecord

KINDS = Kinds(
    (
        Kind("plain", {"model.name": "mlp"}),
        Kind("batch norm", {"model.name": "mlp", "normalization.name": "batch"}),
        Kind(
            "tailored",
            {"model.name": "mlp", "activation.name": "tailored", "init.name": "orthogonal", "init.gain": 1.0},
        ),
        Kind("Farkas, sum", {"model.name": "farkas_mlp", "aggregation.name": "sum"}),
        Kind("Farkas, mean", {"model.name": "farkas_mlp", "aggregation.name": "mean"}),
    ),
    pinned=("normalization.name", "aggregation.", *METHODS),
)
"""The kinds of network, by their settings."""


def report(records: Sequence[RunRecord]) -> Report:
    """Accuracy and dead points of the multi-layer perceptrons over depth and width."""
    found, notes = grids(records, KINDS)
    if not found:
        raise UserError(
            "runs_dir: no finished run of a multi-layer perceptron on two moons; see experiment=deep_narrow"
        )
    figures = {"deep_narrow": lambda: deep_narrow_figure(found)}
    return Report("deep_narrow", (deep_narrow_table(found, notes=notes),), figures)
