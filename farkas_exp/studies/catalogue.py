"""Every study: importing it registers the reports and the experiments of all."""

from farkas_exp.registry import REPORTS
from farkas_exp.studies import (
    backpropaganda,
    deep_narrow,
    farkas,
    identity_matters,
    init_lecture,
    separation,
    without_normalization,
)

__all__ = [
    "backpropaganda",
    "deep_narrow",
    "farkas",
    "identity_matters",
    "init_lecture",
    "separation",
    "without_normalization",
]

REPORTS.register("arms", "farkas_exp.report.arms:arms_report", summary="all runs: one row per arm, and the curves")
REPORTS.register(
    "landscape", "farkas_exp.report.landscape:report", summary="what the diagnostics measured before and after training"
)
