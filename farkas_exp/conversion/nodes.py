"""What the nodes of a traced network are: layers that can be Farkas layers, normalizations, channels."""

import operator
from collections import Counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from farkas_exp.conversion.activations import find
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer
from farkas_exp.layers.normalization import DynamicTanh, GroupNorm, RMSNorm
from farkas_exp.layers.paths import has_hooks
from farkas_exp.layers.residual import ResidualConv2d

NORMS = (
    _BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, GroupNorm, RMSNorm,
    DynamicTanh,
)  # fmt: skip
_NORM_FUNCTIONS: tuple[Any, ...] = (F.batch_norm, F.instance_norm, F.group_norm, F.layer_norm, F.rms_norm)
_SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_ELEMENTWISE: tuple[Any, ...] = (
    *_SUMS, operator.sub, torch.sub, "sub", operator.mul, operator.imul, torch.mul, "mul", "mul_", operator.truediv,
    torch.div, "div",
)  # fmt: skip
_KEEPING_MODULES = (
    *NORMS, FarkasCompletion, _MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, _AdaptiveAvgPoolNd, _DropoutNd, nn.Identity,
    nn.Upsample, _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd,
)  # fmt: skip
_KEEPING: tuple[Any, ...] = (
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.dropout, F.dropout2d, F.dropout3d, F.interpolate, "contiguous",
    "clone", "float", "to",
)  # fmt: skip
"""Modules, functions and methods that keep the channels."""

Modules = dict[str, nn.Module]


class Channels(NamedTuple):
    """How many channels a tensor has, and in which dimension."""

    number: int
    dim: int


def source(node: fx.Node) -> fx.Node | None:
    """What a node is computed from, the first of its inputs."""
    return node.all_input_nodes[0] if node.all_input_nodes else None


def name_of(node: fx.Node | None) -> str:
    """The name by which the network knows what a node computes."""
    return "a constant" if node is None else str(node.target) if node.op == "call_module" else node.name


def module_of(node: fx.Node | None, modules: Modules) -> nn.Module | None:
    """The module that a node calls."""
    return modules[str(node.target)] if node is not None and node.op == "call_module" else None


def norm_of(node: fx.Node | None, modules: Modules) -> tuple[str, nn.Module] | None:
    """The name and module of the normalization that a node computes, also where its module calls PyTorch's function."""
    if node is None:
        return None
    names = [str(node.target)] if node.op == "call_module" else []
    if node.op == "call_function" and node.target in _NORM_FUNCTIONS:
        names = [str(each.target).rpartition(".")[0] for each in node.all_input_nodes if each.op == "get_attr"]
    return next(((name, modules[name]) for name in names if isinstance(modules.get(name), NORMS)), None)


def is_single(node: fx.Node, name: str) -> bool:
    """Whether the network uses the output of `node`, and the module `name` in it, only once."""
    uses = [
        other
        for other in node.graph.nodes
        if (other.op == "call_module" and other.target == name)
        or any(each.op == "get_attr" and str(each.target).startswith(f"{name}.") for each in other.all_input_nodes)
    ]
    return uses == [node] and sum(not _asks_for_shape(user) for user in node.users) == 1


def _asks_for_shape(node: fx.Node) -> bool:
    """Whether a node uses only the shape of its input, not its values."""
    return node.target in ("size", "dim") or (node.target is getattr and node.args[1] in ("shape", "ndim", "dtype"))


def tied_parameters(network: nn.Module, *, by_name: bool = False) -> set[nn.Parameter]:
    """The parameters that more than one module of a network has; `by_name`, or one module in several places."""
    modules = (module for _, module in network.named_modules(remove_duplicate=not by_name))
    counts = Counter(each for module in modules for each in module._parameters.values() if each is not None)
    return {each for each, count in counts.items() if count > 1}


def altered(module: nn.Module) -> str:
    """What a module does beside its class's forward; empty where that is all."""
    if "forward" in vars(module):
        return "its forward was replaced"
    return "it has hooks" if has_hooks(module) else ""


def has_more(layer: nn.Module, tied: set[nn.Parameter]) -> str:
    """What a layer of PyTorch's has beside its weight and bias that would be lost with it."""
    return altered(layer) or ("its weight is shared" if layer.weight in tied else "")


def why_not(node: fx.Node, modules: Modules, tied: set[nn.Parameter]) -> str:
    """Why what `node` computes is no layer that can become a Farkas layer; empty where it is one."""
    module = module_of(node, modules)
    if node.target in _SUMS or isinstance(module, ResidualConv2d):
        return "a sum"
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution"
    if not isinstance(module, (_ConvNd, nn.Linear)):
        return "no convolution or linear layer"
    if type(module) not in (nn.Conv2d, nn.Linear):
        return f"a {type(module).__name__}"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"groups={module.groups}: its filters see different channels"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode}"
    if not is_single(node, str(node.target)):
        return "used more than once"
    return has_more(module, tied) or ("a single output" if module.weight.shape[0] < 2 else "")


def channels_of(node: fx.Node | None, modules: Modules) -> Channels | None:
    """The channels of what a node computes, as far as its layers tell."""
    if node is None:
        return None
    module = module_of(node, modules)
    if isinstance(module, FarkasLayer):
        return Channels(module.outputs, -3 if isinstance(module, FarkasConv2d) else -1)
    if isinstance(module, _ConvNd):
        return Channels(module.out_channels, -len(module.kernel_size) - 1)
    if isinstance(module, nn.Linear):
        return Channels(module.out_features, -1)
    if node.target in (torch.cat, torch.concat):
        return _of_cat(node, modules)
    if node.target in _ELEMENTWISE:
        known = [channels_of(each, modules) for each in node.all_input_nodes]
        return max((each for each in known if each is not None), default=None)
    norm = norm_of(node, modules)
    keeps = norm or isinstance(module, _KEEPING_MODULES) or node.target in _KEEPING or find(node, modules)
    found = channels_of(source(node), modules) if keeps else None
    if found is None and norm and isinstance(norm[1], (nn.BatchNorm2d, nn.GroupNorm)):
        return Channels(norm[1].num_features if isinstance(norm[1], nn.BatchNorm2d) else norm[1].num_channels, 1)
    return found


def _of_cat(node: fx.Node, modules: Modules) -> Channels | None:
    """The channels of a concatenation along them."""
    tensors: Any = node.args[0] if node.args else node.kwargs["tensors"]
    if not isinstance(tensors, (list, tuple)):
        return None
    parts = [channels_of(part, modules) for part in tensors]
    along = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or len({part.dim for part in known}) > 1:
        return None
    dim = known[0].dim  # of maps the channels are dimension 1; of the output of a linear layer that is not known
    return Channels(sum(part.number for part in known), dim) if along == dim or (along == 1 and dim != -1) else None
