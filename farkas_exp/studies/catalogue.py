"""Every study: importing this registers the reports and the experiments of all."""

from importlib import import_module

from farkas_exp.registry import REPORTS

STUDIES = (
    "farkas", "without_normalization", "deep_narrow", "separation", "backpropaganda", "identity_matters",
    "init_lecture",
)  # fmt: skip
"""In the order in which they are listed."""

REPORTS.register("arms", "farkas_exp.report.curves:arms_report", summary="all runs: one row per arm, and the curves")
REPORTS.register("search", "farkas_exp.report.search:report", summary="the settings of a search, ranked")
REPORTS.register(
    "landscape", "farkas_exp.report.landscape:report", summary="what the diagnostics measured before and after training"
)
for _name in STUDIES:
    import_module(f"farkas_exp.studies.{_name}.catalogue")
