"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

_HERE = "farkas_exp.studies.without_normalization"
_SHARED = {"shared": f"{_HERE}.comparison:shared_setting"}

for _name, _source, _summary in (
    ("without_normalization", "comparison:report", "every method at its own best learning rate"),
    ("initializations", "crossed:report",
     "every method with every initialization, each pair at its own best learning rate"),
    ("transformers", "comparison:transformers_report", "the same of vision transformers"),
):  # fmt: skip
    REPORTS.register(_name, f"{_HERE}.{_source}", summary=_summary, **_SHARED)
REPORTS.register(
    "costs", f"{_HERE}.costs:report",
    summary="a training step, parameters and needs of each method of these comparisons and of `deep_narrow`",
)  # fmt: skip

_EXPERIMENTS = (
    ("without_normalization", "without_normalization", "540", "33 minutes on two CPU cores for one seed of 22 methods",
     "every method at every learning rate, on held-out images; then at its own best, on test images",
     {"then": "without_normalization_extended"}),
    ("without_normalization_extended", "without_normalization", "up to 90", "less than the search",
     "the next learning rate for methods whose best one lies at an end of the grid",
     {"then": "without_normalization_test"}),
    ("without_normalization_test", "without_normalization", "150",
     "17 minutes on two CPU cores for three seeds of 22 methods",
     "every method at its own best learning rate, on the test images"),
    ("initializations", "initializations", "648", "13 minutes for 40 runs on two CPU cores",
     "every method with every initialization, on held-out images; then at its own best rate, on test images",
     {"then": "initializations_extended"}),
    ("initializations_extended", "initializations", "up to 108", "less than the search",
     "the next learning rate for pairs whose best one lies at an end of the grid", {"then": "initializations_test"}),
    ("initializations_test", "initializations", "180", "13 minutes for 40 runs on two CPU cores",
     "every method with every initialization at its own best learning rate, on the test images"),
    ("transformers", "transformers", "126", "40 minutes on two CPU cores",
     "the same with a vision transformer, on held-out images; then at its own best, on test images",
     {"then": "transformers_extended"}),
    ("transformers_extended", "transformers", "up to 21", "less than the search",
     "the next learning rate for transformers whose best one lies at an end of the grid",
     {"then": "transformers_test"}),
    ("transformers_test", "transformers", "35", "20 minutes on two busy CPU cores",
     "every vision transformer at its own best learning rate, on the test images"),
)  # fmt: skip
for _name, _report, _runs, _cost, _title, *_more in _EXPERIMENTS:
    EXPERIMENTS.register(_name, _report, runs=_runs, cost=_cost, title=_title, **dict(*_more))
