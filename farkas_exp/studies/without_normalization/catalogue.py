"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

REPORTS.register(
    "without_normalization", "farkas_exp.studies.without_normalization.comparison:report",
    summary="every method at its own best learning rate",
    shared="farkas_exp.studies.without_normalization.comparison:shared_setting",
)  # fmt: skip
EXPERIMENTS.register(
    "without_normalization", "without_normalization",
    title="every method at every learning rate, on held-out images; then at its own best, on test images", runs="540",
    cost="33 minutes on two CPU cores for one seed of 22 methods", then="without_normalization_extended",
)  # fmt: skip
EXPERIMENTS.register(
    "without_normalization_extended", "without_normalization",
    title="the next learning rate for methods whose best one lies at an end of the grid", runs="up to 90",
    cost="less than the search", then="without_normalization_test",
)  # fmt: skip
EXPERIMENTS.register(
    "without_normalization_test", "without_normalization",
    title="every method at its own best learning rate, on the test images", runs="150",
    cost="17 minutes on two CPU cores for three seeds of 22 methods",
)  # fmt: skip

REPORTS.register(
    "initializations", "farkas_exp.studies.without_normalization.crossed:report",
    summary="every method with every initialization, each pair at its own best learning rate",
    shared="farkas_exp.studies.without_normalization.comparison:shared_setting",
)  # fmt: skip
EXPERIMENTS.register(
    "initializations", "initializations",
    title="every method with every initialization, on held-out images; then at its own best rate, on test images",
    runs="216", cost="not measured", then="initializations_test",
)  # fmt: skip
EXPERIMENTS.register(
    "initializations_test", "initializations", runs="108", cost="not measured",
    title="every method with every initialization at its own best learning rate, on the test images",
)  # fmt: skip

REPORTS.register(
    "transformers", "farkas_exp.studies.without_normalization.comparison:transformers_report",
    summary="the same of vision transformers",
    shared="farkas_exp.studies.without_normalization.comparison:shared_setting",
)  # fmt: skip
EXPERIMENTS.register(
    "transformers", "transformers",
    title="the same with a vision transformer, on held-out images; then at its own best, on test images", runs="42",
    cost="not measured as a whole", then="transformers_test",
)  # fmt: skip
EXPERIMENTS.register(
    "transformers_test", "transformers",
    title="every vision transformer at its own best learning rate, on the test images", runs="21",
    cost="not measured as a whole",
)  # fmt: skip
REPORTS.register(
    "costs", "farkas_exp.studies.without_normalization.costs:report",
    summary="a training step, parameters and needs of each method of these two comparisons",
)  # fmt: skip
