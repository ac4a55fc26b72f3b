"""The measurements by their names in `diagnostics.measures`, with what they need; without PyTorch."""

from farkas_exp.registry import MEASURES
from farkas_exp.runs.measurements import ACTIVITY

_HERE = "farkas_exp.measures.figures"

MEASURES.register(ACTIVITY, f"{_HERE}:activity")
MEASURES.register("grad_norm", f"{_HERE}:gradient")
MEASURES.register("hessian", f"{_HERE}:hessian")
MEASURES.register("ntk", f"{_HERE}:kernel")
MEASURES.register("param_norm", f"{_HERE}:norm")
MEASURES.register("plane", f"{_HERE}:plane", plane=True)
MEASURES.register("rank", f"{_HERE}:rank")
MEASURES.register("robustness", f"{_HERE}:robustness", pixels=True, whole_set=True)
