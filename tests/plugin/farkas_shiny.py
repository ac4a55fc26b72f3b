"""A small package as someone else would write it: a data set, a normalization, a network, an initialization.

Imports no PyTorch: what is built is in `farkas_shiny_parts`.
"""

from farkas_exp.config import option
from farkas_exp.registry import DATASETS, INITIALIZATIONS, NETWORKS, NORMALIZATIONS

NORMALIZATIONS.register(
    "shiny", "farkas_shiny_parts:shiny_norm", label="shiny",
    options={"polish": option(0.5, at_least=0, at_most=2), "coats": 1, "finish": "matt"},
)  # fmt: skip
NETWORKS.register(
    "shiny_net", "farkas_shiny_parts:build_shiny", spatial=False,
    options={"width": 16, "facets": option(4, at_least=1, at_most=64)},
)  # fmt: skip
INITIALIZATIONS.register("shiny_start", "farkas_shiny_parts:shine", needs=("glow",), options={"glow": 0.1})
DATASETS.register(
    "gems", "farkas_shiny_parts:load_gems", classes=2, options={"carats": option(3, at_least=1, at_most=9)}
)
