"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

_HERE = "farkas_exp.studies.farkas.reports"
_SHARED = {"shared": "farkas_exp.runs.query:common_setting"}

for _name, _summary in {
    "table1": "Table 1: CIFAR-10, with and without batch norm",
    "table2": "Table 2: CIFAR-100",
    "table3": "Table 3: ImageNet",
    "table4": "Table 4: best practice on CIFAR-10",
    "table1_mini": "Table 1 in small",
    "table1_small_images": "Table 1 on small images, with control arms and the activity by kind of unit",
    "table3_mini": "Table 3 in small",
    "figure5": "Figure 5, claims (e) and (k): 101 layers at the large learning rate",
    "fixup_rates": "claim (d): FixUp by learning rate",
    "claims": "the paper's claims, tested on the runs",
}.items():
    REPORTS.register(_name, f"{_HERE}:{_name}", summary=_summary, **_SHARED)
REPORTS.register(
    "demo", "farkas_exp.studies.farkas.demo:report", summary="the demo: plain, He, Farkas and batch norm", **_SHARED
)
REPORTS.register("figures", f"{_HERE}:figures", summary="Figures 1 to 7, as far as there are runs", needs_runs=False)

EXPERIMENTS.register(
    "demo", "demo", title="the first look: 20 layers on digits, plain, with He initialization, Farkas, batch norm",
    runs="12", cost="77 s on two CPU cores",
)  # fmt: skip
EXPERIMENTS.register(
    "table1", "table1", title="Table 1: CIFAR-10, 18 to 101 layers, with and without batch norm", runs="48",
    cost="95 PFLOP a seed; 2 to 3 days on one GPU",
)  # fmt: skip
EXPERIMENTS.register(
    "table2", "table2", title="Table 2: the same on CIFAR-100, 34 to 101 layers", runs="36", cost="85 PFLOP a seed"
)
EXPERIMENTS.register(
    "table3", "table3", title="Table 3: ImageNet, 50 to 152 layers (docs/imagenet.md)", runs="6",
    cost="7.5 EFLOP; 34 hours on a GPU of 2,500 images/s", arguments="dataset.root=DIR",
)  # fmt: skip
EXPERIMENTS.register(
    "table4", "table4", title="Table 4: best practice on CIFAR-10, 34 layers", runs="12", cost="18 PFLOP a seed"
)
EXPERIMENTS.register(
    "table1_controls", "table1", title="the control arms beside Table 1, rendered below it", runs="246",
    cost="five times Table 1",
)  # fmt: skip
EXPERIMENTS.register(
    "table4_controls", "table4", title="the control arms beside Table 4: both readings of how FixUp is trained",
    runs="12", cost="18 PFLOP a seed",
)  # fmt: skip
EXPERIMENTS.register(
    "figure5", "figure5", title="Figure 5 and claim (e): 101 layers at the large rate, mean, sum, and other starts",
    runs="18", cost="64 PFLOP a seed",
)  # fmt: skip
EXPERIMENTS.register(
    "fixup_rates", "fixup_rates", title="claim (d): FixUp at each learning rate, with and without normalized inputs",
    runs="18", cost="26 PFLOP a seed",
)  # fmt: skip
EXPERIMENTS.register(
    "table1_mini", "table1_mini", title="Table 1 and Figure 4 in small, on handwritten digits", runs="40",
    cost="15 minutes on two CPU cores",
)  # fmt: skip
EXPERIMENTS.register(
    "table1_mini_cifar10", "table1_mini", title="the 18-layer networks on 2,000 images of CIFAR-10", runs="4",
    cost="20 minutes on two CPU cores, by arithmetic",
)  # fmt: skip
EXPERIMENTS.register(
    "table1_small_images", "table1_small_images", title="Table 1 with control arms on real images of 16x16", runs="81",
    cost="days on two CPU cores", arguments="dataset.root=DIR",
)  # fmt: skip
EXPERIMENTS.register(
    "table3_mini", "table3_mini", title="Table 3's pipeline on any small folder of images", runs="2",
    cost="half a minute on two CPU cores", arguments="dataset.root=DIR",
)  # fmt: skip
EXPERIMENTS.register(
    "lr_search", "search", title="the learning rate for a network, on images held out of the training set", runs="14",
    cost="4 times a run of 200 epochs",
)  # fmt: skip
