"""The optimizers by name, with their options beside the weight decay; without PyTorch.

A builder takes (parameter groups, learning rate, group of the configuration, whether fused).
"""

from farkas_exp.registry import OPTIMIZERS

_HERE = "farkas_exp.training.optimizer"

OPTIMIZERS.register("sgd", f"{_HERE}:sgd", options={"momentum": None, "nesterov": None}, recordable=True)
OPTIMIZERS.register("adam", f"{_HERE}:adam", recordable=True)
OPTIMIZERS.register("adamw", f"{_HERE}:adamw", recordable=True)
OPTIMIZERS.register("muon", "farkas_exp.training.muon:muon", matrices=True)
