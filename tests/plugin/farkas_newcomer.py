"""What a newcomer writes: a residual network with an option, and a table, in this file and the one that it names."""

from farkas_exp.config import option
from farkas_exp.registry import NETWORKS, REPORTS

NETWORKS.register(
    "stairs", "farkas_newcomer_parts:build_stairs", spatial=False, label="Stairs",
    options={"width": 12, "steps": option(3, at_least=1, at_most=50)},
)  # fmt: skip
REPORTS.register("by_steps", "farkas_newcomer_parts:by_steps", summary="the error by the number of steps")
