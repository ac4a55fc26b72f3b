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

_EXPERIMENTS = (
    ("demo", "demo", "12", "77 s on two CPU cores",
     "the first look: 20 layers on digits, plain, with He initialization, Farkas, batch norm"),
    ("table1", "table1", "48", "95 PFLOP a seed; without batch norm an hour on an H200 in bf16",
     "Table 1: CIFAR-10, 18 to 101 layers, with and without batch norm"),
    ("table2", "table2", "36", "85 PFLOP a seed", "Table 2: the same on CIFAR-100, 34 to 101 layers"),
    ("table3", "table3", "6", "7.5 EFLOP; 34 hours on a GPU of 2,500 images/s",
     "Table 3: ImageNet, 50 to 152 layers (docs/imagenet.md)", {"arguments": "dataset.root=DIR"}),
    ("table4", "table4", "12", "18 PFLOP a seed", "Table 4: best practice on CIFAR-10, 34 layers"),
    ("table1_controls", "table1", "246", "five times Table 1", "the control arms beside Table 1, rendered below it"),
    ("table4_controls", "table4", "12", "18 PFLOP a seed",
     "the control arms beside Table 4: both readings of how FixUp is trained"),
    ("figure5", "figure5", "18", "64 PFLOP a seed",
     "Figure 5 and claim (e): 101 layers at the large rate, mean, sum, and other starts"),
    ("fixup_rates", "fixup_rates", "18", "26 PFLOP a seed",
     "claim (d): FixUp at each learning rate, with and without normalized inputs"),
    ("table1_mini", "table1_mini", "40", "15 minutes on two CPU cores",
     "Table 1 and Figure 4 in small, on handwritten digits"),
    ("table1_mini_cifar10", "table1_mini", "4", "20 minutes on two CPU cores, by arithmetic",
     "the 18-layer networks on 2,000 images of CIFAR-10"),
    ("table1_small_images", "table1_small_images", "93", "days on two CPU cores, 12 minutes on a GPU",
     "Table 1 with control arms on real images of 16x16", {"arguments": "dataset.root=DIR"}),
    ("table3_mini", "table3_mini", "2", "half a minute on two CPU cores",
     "Table 3's pipeline on any small folder of images", {"arguments": "dataset.root=DIR"}),
    ("lr_search", "search", "14", "4 times a run of 200 epochs",
     "the learning rate for a network, on images held out of the training set"),
)  # fmt: skip
for _name, _report, _runs, _cost, _title, *_more in _EXPERIMENTS:
    EXPERIMENTS.register(_name, _report, runs=_runs, cost=_cost, title=_title, **dict(*_more))
