"""What a newcomer writes, here and in the file named: a network, an optimizer and methods with options, a table, ..."""

from farkas_exp.config import option
from farkas_exp.registry import CALLBACKS, MEASURES, METHODS, NETWORKS, OPTIMIZERS, REGULARIZERS, REPORTS

NETWORKS.register(
    "stairs", "farkas_newcomer_parts:build_stairs", spatial=False, label="Stairs",
    options={"width": 12, "steps": option(3, at_least=1, at_most=50)},
)  # fmt: skip
REPORTS.register("by_steps", "farkas_newcomer_parts:by_steps", summary="the error by the number of steps")
OPTIMIZERS.register(
    "signs", "farkas_newcomer_parts:signs",
    options={"momentum": None, "share": option(1.0, above=0, at_most=1)},
)  # fmt: skip
REGULARIZERS.register(
    "quiet", "farkas_newcomer_parts:Quiet", label="Quiet",
    options={"strength": None, "alone": None, "power": option(2.0, above=0, at_most=8)},
)  # fmt: skip
CALLBACKS.register("halving", "farkas_newcomer_parts:Halving", options={"last_epochs": None})
METHODS.register("counting", "farkas_newcomer_parts:Counting", asked=lambda config: config.label_smoothing > 0)
MEASURES.register("largest", "farkas_newcomer_parts:largest")
MEASURES.register("brightest", "farkas_newcomer_parts:largest", pixels=True)
