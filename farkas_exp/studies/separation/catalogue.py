"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

for _name, _source, _summary in (
    ("separation", "table1:report", "Table 1 of the separation paper: two moons, 50 layers of 4 units, and 60 of 3"),
    ("sep_moons_grid", "figures:grid", "Figures 1, 2 and 5 of the separation paper: heat maps over depth and width"),
    ("sep_zero_init", "figures:zero_init", "Figure 4 of the separation paper: all weights zero"),
    ("sep_cifar_depth", "figures:cifar_depth", "Figure 3 of the separation paper: convolutions over depth"),
    ("sep_representations", "representations:report",
     "Figures 6 to 12 of the separation paper: what networks make of two moons"),
):  # fmt: skip
    REPORTS.register(_name, f"farkas_exp.studies.separation.{_source}", summary=_summary)

_EXPERIMENTS = (
    ("sep_representations", "sep_representations", "7", "minutes on a CPU core",
     "Separation, Figures 6 to 12: two moons layer by layer, and the constraints alone"),
    ("sep_moons_table1", "separation", "90", "half an hour on a CPU core",
     "Separation, Table 1: two moons, 50 layers of 4 units", {"then": "sep_moons_60x3"}),
    ("sep_moons_60x3", "separation", "90", "half an hour on a CPU core",
     "Separation, the limit of Sep-UP: two moons, 60 layers of 3 units"),
    ("sep_moons_grid", "sep_moons_grid", "728", "half a day on a CPU core",
     "Separation, Figures 1 and 5: two moons over depth and width", {"then": "sep_moons_width1"}),
    ("sep_moons_width1", "sep_moons_grid", "65", "an hour on a CPU core",
     "Separation, Figures 1 and 5: two moons at width 1"),
    ("sep_mnist_grid", "sep_moons_grid", "180", "hours on one GPU", "Separation, Figure 2: MNIST over depth and width"),
    ("sep_zero_init", "sep_zero_init", "30", "up to 3 minutes a run on a CPU core",
     "Separation, Figure 4: all weights zero, annealed dropout"),
    ("sep_cifar_depth", "sep_cifar_depth", "30", "hours on one GPU",
     "Separation, Figure 3: convolutions on CIFAR-10 over depth"),
)  # fmt: skip
for _name, _report, _runs, _cost, _title, *_more in _EXPERIMENTS:
    EXPERIMENTS.register(_name, _report, runs=_runs, cost=_cost, title=_title, **dict(*_more))
