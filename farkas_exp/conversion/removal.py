"""Normalizations taken out of a traced network: folded into the layer before them as they evaluate, or left out."""

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from farkas_exp.conversion.nodes import has_more, is_norm, is_single, module_of, modules_of, source

_FOLDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def remove_norms(network: fx.GraphModule) -> list[str]:
    """Remove every normalization in place; return the names of those that no layer could take over."""
    modules, lost = modules_of(network), []
    for node in list(network.graph.nodes):
        before = source(node)
        if before is None or not is_norm(node, modules):
            continue
        norm, layer = modules[str(node.target)], module_of(before, modules)
        if layer is None or not is_single(before) or has_more(layer, modules) or not fold(layer, norm):
            lost.append(str(node.target))
        node.replace_all_uses_with(before)
        network.graph.erase_node(node)
    return lost


@torch.no_grad()
def fold(layer: nn.Module, norm: nn.Module) -> bool:
    """Give the layer what the batch norm behind it does when it evaluates; whether that was possible."""
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    if type(layer) not in _FOLDS or (transposed and layer.groups > 1):
        return False
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return False
    assert isinstance(layer.weight, nn.Parameter)
    assert isinstance(layer.bias, nn.Parameter | None)
    scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
    shift = (0.0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    sides = [1] * layer.weight.dim()
    sides[1 if transposed else 0] = -1
    layer.weight.mul_(scale.view(sides))
    layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift)
    return True
