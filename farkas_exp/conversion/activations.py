"""Which nodes of a traced network are activations, and the cutoff of each."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.catalogue import FLAT_SLOPE
from farkas_exp.registry import ACTIVATIONS

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.ELU: "elu", nn.SELU: "selu",
    nn.Softplus: "softplus",
}  # fmt: skip
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", F.relu_: "relu", torch.relu: "relu", torch.relu_: "relu", "relu": "relu", "relu_": "relu",
    F.relu6: "relu6", F.leaky_relu: "leaky_relu", F.leaky_relu_: "leaky_relu", F.elu: "elu", F.elu_: "elu",
    F.selu: "selu", F.selu_: "selu", F.softplus: "softplus",
}  # fmt: skip
_OTHERS: tuple[Any, ...] = (
    F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.prelu, F.celu, F.sigmoid, F.tanh, torch.sigmoid,
    torch.tanh, "sigmoid", "tanh",
)  # fmt: skip
_NO_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin)
_OPTION = {"leaky_relu": ("negative_slope", 0.01), "elu": ("alpha", 1.0), "softplus": ("beta", 1.0)}
"""The option that moves the cutoff, and its default."""
_IN_PLACE = {F.relu_, torch.relu_, "relu_", F.elu_, F.selu_, F.leaky_relu_}


class Found(NamedTuple):
    """An activation: its cutoff, or None, and what else there is to say."""

    cutoff: float | None
    note: str = ""


def find(node: fx.Node, modules: dict[str, nn.Module]) -> Found | None:
    """The activation that a node computes, or None where it computes none."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return None  # an argument may be called `relu`
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, Activation):
        return _of_cutoff(module.cutoff)
    name = _MODULES.get(type(module)) if module is not None else _FUNCTIONS.get(node.target)
    if name is None:
        return Found(None, "no cutoff is known for it") if _is_other(node, module) else None
    key, value = _OPTION.get(name, ("", 0.0))
    if module is not None:
        value = getattr(module, key, value)
    else:
        value = node.args[1] if key and len(node.args) > 1 else node.kwargs.get(key, value)
    if not isinstance(value, (int, float)):
        return Found(None, f"its {key} is computed")
    if name == "elu":  # its slope below zero is alpha * exp(x)
        return Found(min(0.0, math.log(FLAT_SLOPE / max(abs(value), FLAT_SLOPE))))
    if name == "softplus":
        return Found(ACTIVATIONS[name].cutoff / value)
    if name == "leaky_relu":
        return _of_cutoff(-math.inf if abs(value) > FLAT_SLOPE else 0.0)
    return Found(0.0, "flat above 6 too") if name == "relu6" else Found(ACTIVATIONS[name].cutoff)


def _of_cutoff(cutoff: float) -> Found:
    return Found(None, "flat on no side: no unit is dead") if cutoff == -math.inf else Found(cutoff)


def _is_other(node: fx.Node, module: nn.Module | None) -> bool:
    if module is None:
        return node.target in _OTHERS
    kind = type(module)
    return kind.__module__ == "torch.nn.modules.activation" and kind not in _NO_ACTIVATIONS


def is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether an activation may overwrite what it is given."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return getattr(module, "inplace", False) or getattr(module, "name", None) == "relu"
    return node.target in _IN_PLACE or any(each is True for each in (*node.args[1:], node.kwargs.get("inplace")))
