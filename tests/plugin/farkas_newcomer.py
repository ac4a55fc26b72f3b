"""What a newcomer writes: a network and an optimizer with options, a table, a measure, here and in the file named."""

from farkas_exp.config import option
from farkas_exp.registry import MEASURES, NETWORKS, OPTIMIZERS, REPORTS

NETWORKS.register(
    "stairs", "farkas_newcomer_parts:build_stairs", spatial=False, label="Stairs",
    options={"width": 12, "steps": option(3, at_least=1, at_most=50)},
)  # fmt: skip
REPORTS.register("by_steps", "farkas_newcomer_parts:by_steps", summary="the error by the number of steps")
OPTIMIZERS.register(
    "signs", "farkas_newcomer_parts:signs",
    options={"momentum": None, "share": option(1.0, above=0, at_most=1)},
)  # fmt: skip
MEASURES.register("largest", "farkas_newcomer_parts:largest")
MEASURES.register("brightest", "farkas_newcomer_parts:largest", pixels=True)
