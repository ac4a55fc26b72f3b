"""The reports and the experiments of this study. Imports nothing that they need."""

from farkas_exp.registry import EXPERIMENTS, REPORTS

for _name, _title, _runs, _cost in (
    ("local_minima_mlp", "Table 1: an MLP from starts that lead to suboptimal minima", "5", "minutes a run"),
    ("local_minima_resnet", "Table 5: ResNet-18 from bad starts", "8", "hours a run on one GPU"),
    ("norm_bias", "Tables 2, 3 and 8: weight decay or norm-bias", "18", "an hour or more a run on one GPU"),
    ("ntk_width", "Figure 1: how far training moves the tangent kernel, over the width", "10", "minutes a run"),
    (
        "rank",
        "Table 4: RankMin and RankMax, natural and adversarial training",
        "12",
        "an hour or more a run on one GPU, adversarial eight times",
    ),
):
    REPORTS.register(
        _name, f"farkas_exp.studies.backpropaganda.tables:{_name}", summary=f"Truth or backpropaganda, {_title}"
    )
    EXPERIMENTS.register(_name, _name, title=f"Truth or backpropaganda, {_title}", runs=_runs, cost=_cost)
