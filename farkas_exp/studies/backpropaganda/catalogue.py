"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

for _name, _title, _runs, _cost in (
    ("local_minima_mlp", "Tables 1 and 7: an MLP from starts that lead to suboptimal minima", "8", "minutes a run"),
    ("local_minima_resnet", "Tables 5 and 6: ResNet-18 from bad starts", "12", "hours a run on one GPU"),
    ("norm_bias", "Tables 2 and 3: weight decay or norm-bias", "144", "an hour or more a run on one GPU"),
    ("ntk_width", "Figure 1: how far training moves the tangent kernel, over the width", "30", "minutes a run"),
    ("rank", "Tables 4 and 10: RankMin and RankMax, natural and adversarial training", "24",
     "an hour or more a run on one GPU, adversarial eight times"),
):  # fmt: skip
    REPORTS.register(
        _name, f"farkas_exp.studies.backpropaganda.tables:{_name}", summary=f"Truth or backpropaganda, {_title}"
    )
    EXPERIMENTS.register(
        _name, _name, title=f"Truth or backpropaganda, {_title}", runs=_runs, cost=_cost,
        then={"ntk_width": "ntk_resnet"}.get(_name),
    )  # fmt: skip
EXPERIMENTS.register(
    "norm_bias_cifar100", "norm_bias", runs="45", cost="an hour or more a run on one GPU",
    title="Truth or backpropaganda, Table 8: weight decay or norm-bias on CIFAR-100",
)  # fmt: skip
EXPERIMENTS.register(
    "ntk_resnet", "ntk_width", runs="32", cost="up to an hour a run on one GPU",
    title="Truth or backpropaganda, Figure 6: the tangent kernel of WideResNet-16 and of parts of it",
)  # fmt: skip
EXPERIMENTS.register(
    "rank_mlp", "rank", runs="6", cost="minutes a run",
    title="Truth or backpropaganda, Table 9: RankMin and RankMax of an MLP",
)  # fmt: skip
