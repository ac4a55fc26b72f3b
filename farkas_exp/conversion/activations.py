"""Which nodes of a traced network are activations, and the cutoff of each."""

import math
from typing import Any, NamedTuple

from torch import fx, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.catalogue import FLAT_SLOPE
from farkas_exp.registry import ACTIVATIONS

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.ELU: "elu", nn.CELU: "celu", nn.SELU: "selu",
    nn.Softplus: "softplus", nn.Threshold: "threshold", nn.Hardtanh: "hardtanh",
}  # fmt: skip
_OPTIONS: dict[str, dict[str, Any]] = {
    "relu": {}, "relu6": {}, "leaky_relu": {"negative_slope": 0.01}, "elu": {"alpha": 1.0}, "celu": {"alpha": 1.0},
    "selu": {}, "softplus": {"beta": 1.0}, "threshold": {"threshold": None}, "hardtanh": {"min_val": -1, "max_val": 1},
    "clamp": {"min": None, "max": None}, "clip": {"min": None, "max": None}, "clamp_min": {"min": None},
}  # fmt: skip
"""The functions with a cutoff, with the options that move it and their defaults."""
_OTHERS = (
    "gelu", "silu", "mish", "hardswish", "hardsigmoid", "prelu", "rrelu", "sigmoid", "tanh", "log_sigmoid", "softsign",
    "tanhshrink", "softshrink", "hardshrink", "glu",
)  # fmt: skip
_PLACES = ("torch", "torch.nn.functional", "torch._C._nn", "torch._ops.aten")
_NO_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin)


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
    name = _MODULES.get(type(module), "") if module is not None else _function(node).strip("_")
    if name not in _OPTIONS:
        return Found(None, "no cutoff is known for it") if _is_other(name, module) else None
    options = _OPTIONS[name]
    if module is not None:
        values = [getattr(module, key, default) for key, default in options.items()]
    else:
        given = dict(zip(options, node.args[1:], strict=False)) | node.kwargs
        values = [given.get(key, default) for key, default in options.items()]
    return _with_options(name, values)


def _with_options(name: str, values: list[Any]) -> Found | None:
    """An activation with the values of its options."""
    if name in ("clamp", "clip", "clamp_min", "hardtanh"):
        low, high = values[0], values[1] if len(values) > 1 else None
        if low == 0:
            return Found(0.0, "" if high is None else f"flat above {high} too")
        return Found(None, "flat on both sides") if name == "hardtanh" else None
    if not values:
        return Found(0.0, "flat above 6 too") if name == "relu6" else Found(ACTIVATIONS[name].cutoff)
    value = values[0]
    if not isinstance(value, (int, float)):
        return Found(None, f"its {next(iter(_OPTIONS[name]))} is computed")
    if name == "elu":  # its slope below zero is alpha * exp(x)
        return Found(min(0.0, math.log(FLAT_SLOPE / max(abs(value), FLAT_SLOPE))))
    if name in ("celu", "softplus") and value <= 0:
        return Found(None, f"its {next(iter(_OPTIONS[name]))} is {value}")
    if name == "celu":  # exp(x / alpha)
        return Found(value * math.log(FLAT_SLOPE))
    if name == "softplus":
        return Found(ACTIVATIONS[name].cutoff / value)
    if name == "threshold":
        return Found(float(value))
    assert name == "leaky_relu"
    return _of_cutoff(-math.inf if abs(value) > FLAT_SLOPE else 0.0)


def _of_cutoff(cutoff: float) -> Found:
    return Found(None, "flat on no side: no unit is dead") if cutoff == -math.inf else Found(cutoff)


def _function(node: fx.Node) -> str:
    """The name of the function or method of PyTorch's that a node calls."""
    if isinstance(node.target, str):
        return node.target if node.op == "call_method" else ""
    here = getattr(node.target, "__module__", None) in _PLACES
    return node.target.__name__.partition(".")[0] if here else ""


def _is_other(name: str, module: nn.Module | None) -> bool:
    if module is None:
        return name in _OTHERS
    kind = type(module)
    return kind.__module__ == "torch.nn.modules.activation" and kind not in _NO_ACTIVATIONS


def is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether an activation may overwrite what it is given."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return getattr(module, "inplace", False) or getattr(module, "name", None) == "relu"
    by_option = any(each is True for each in (*node.args[1:], node.kwargs.get("inplace")))
    return by_option or _function(node).endswith("_")
