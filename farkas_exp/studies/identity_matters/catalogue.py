"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

_HERE = "farkas_exp.studies.identity_matters.report"

REPORTS.register("allconv", f"{_HERE}:allconv", summary="Table 2: all-convolutional residual networks on CIFAR")
for _name, _summary in {
    "identity": "Table 2 where there are runs, and the two below",
    "linear_residual_landscape": "computed: Theorems 2.1 and 2.2",
    "exact_fit": "computed: Theorem 3.2",
}.items():
    REPORTS.register(_name, f"{_HERE}:{_name}", summary=_summary, needs_runs=False)
for _data in ("CIFAR-10", "CIFAR-100"):
    EXPERIMENTS.register(
        f"allconv_{_data.lower().replace('-', '')}", "allconv",
        title=f"Identity matters, Table 2: all-convolutional residual networks on {_data}", runs="6",
        cost="91 PFLOP a run; the paper: 24 hours on one K40",
    )  # fmt: skip
