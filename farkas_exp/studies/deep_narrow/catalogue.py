"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

REPORTS.register(
    "deep_narrow",
    "farkas_exp.studies.deep_narrow.report:report",
    summary="multi-layer perceptrons on two moons: heat maps",
)
EXPERIMENTS.register(
    "deep_narrow", "deep_narrow", title="multi-layer perceptrons on two moons: heat maps over depth and width",
    runs="240", cost="minutes on two CPU cores",
)  # fmt: skip
