"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import REPORTS

for _name, _summary in {
    "lecture": "the three below in one",
    "linear_residual_ratio": "computed: how far linear residual networks stretch their input",
    "residual_scaling": "computed: the variance of scaled residual networks",
    "landscape_toys": "computed: stationary points of small loss functions",
}.items():
    REPORTS.register(_name, f"farkas_exp.studies.init_lecture.report:{_name}", summary=_summary, needs_runs=False)
