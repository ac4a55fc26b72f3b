"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

REPORTS.register(
    "separation", "farkas_exp.studies.separation.table1:report",
    summary="Table 1 of the separation paper: two moons, 50 layers of 4 units, and 60 of 3",
)  # fmt: skip
REPORTS.register(
    "sep_moons_grid", "farkas_exp.studies.separation.figures:grid",
    summary="Figures 1, 2 and 5 of the separation paper: heat maps over depth and width",
)  # fmt: skip
REPORTS.register(
    "sep_zero_init", "farkas_exp.studies.separation.figures:zero_init",
    summary="Figure 4 of the separation paper: all weights zero",
)  # fmt: skip
REPORTS.register(
    "sep_cifar_depth", "farkas_exp.studies.separation.figures:cifar_depth",
    summary="Figure 3 of the separation paper: convolutions over depth",
)  # fmt: skip
REPORTS.register(
    "sep_representations", "farkas_exp.studies.separation.representations:report",
    summary="Figures 6 to 12 of the separation paper: what networks make of two moons",
)  # fmt: skip

EXPERIMENTS.register(
    "sep_representations", "sep_representations", runs="7", cost="minutes on a CPU core",
    title="Separation, Figures 6 to 12: two moons layer by layer, and the constraints alone",
)  # fmt: skip
EXPERIMENTS.register(
    "sep_moons_table1", "separation", title="Separation, Table 1: two moons, 50 layers of 4 units", runs="90",
    cost="half an hour on a CPU core", then="sep_moons_60x3",
)  # fmt: skip
EXPERIMENTS.register(
    "sep_moons_60x3", "separation", title="Separation, the limit of Sep-UP: two moons, 60 layers of 3 units", runs="90",
    cost="half an hour on a CPU core",
)  # fmt: skip
EXPERIMENTS.register(
    "sep_moons_grid", "sep_moons_grid", title="Separation, Figures 1 and 5: two moons over depth and width", runs="728",
    cost="half a day on a CPU core", then="sep_moons_width1",
)  # fmt: skip
EXPERIMENTS.register(
    "sep_moons_width1", "sep_moons_grid", title="Separation, Figures 1 and 5: two moons at width 1", runs="65",
    cost="an hour on a CPU core",
)  # fmt: skip
EXPERIMENTS.register(
    "sep_mnist_grid", "sep_moons_grid", title="Separation, Figure 2: MNIST over depth and width", runs="180",
    cost="hours on one GPU",
)  # fmt: skip
EXPERIMENTS.register(
    "sep_zero_init", "sep_zero_init", title="Separation, Figure 4: all weights zero, annealed dropout", runs="30",
    cost="up to 3 minutes a run on a CPU core",
)  # fmt: skip
EXPERIMENTS.register(
    "sep_cifar_depth", "sep_cifar_depth", title="Separation, Figure 3: convolutions on CIFAR-10 over depth", runs="30",
    cost="hours on one GPU",
)  # fmt: skip
