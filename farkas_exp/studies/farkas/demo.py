"""The demo's table: plain, with He initialization, with Farkas layers and with batch norm."""

from collections.abc import Sequence

from farkas_exp.report.arms import group_arms
from farkas_exp.report.curves import curves_figure
from farkas_exp.report.kinds import METHODS, Column, Kind, Kinds, kinds_report
from farkas_exp.report.maps import dead_points
from farkas_exp.report.render import Report
from farkas_exp.runs import RunRecord

TITLE = "The demo: deep networks without normalization"
KINDS = Kinds(
    (
        Kind("plain", {"model.name": "mlp"}),
        Kind("plain, He initialization", {"model.name": "mlp", "init.name": "kaiming"}),
        Kind("Farkas, sum", {"model.name": "farkas_mlp", "aggregation.name": "sum"}),
        Kind("batch norm", {"model.name": "mlp", "normalization.name": "batch"}),
    ),
    pinned=("normalization.name", "aggregation.", "init.", *METHODS),
)
"""The rows, by their settings."""
DEAD = Column("dead points at the start (%)", lambda run: dead_points(run, last=False))
NOTE = "Dead points: at which no unit is active, in the layer where most are; chance is an error of 90 %."


def report(records: Sequence[RunRecord]) -> Report:
    """Error and dead points of each arm, and the curves."""
    kinds = {run.identity: kind.label for run in records if (kind := KINDS.of(run))}
    arms = group_arms([run for run in records if run.identity in kinds], kinds)
    return kinds_report("demo", TITLE, records, KINDS, (DEAD,), (NOTE,), demo=lambda: curves_figure(arms))
