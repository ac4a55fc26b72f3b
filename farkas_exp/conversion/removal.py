"""Normalizations taken out of a traced network: folded into the layer before them as they evaluate, or left out."""

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from farkas_exp.conversion.nodes import Modules, has_more, is_single, module_of, norm_of, source

_FOLDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def remove_norms(graph: fx.Graph, modules: Modules, tied: set[nn.Parameter]) -> list[str]:
    """Remove every normalization in place; return the names of those that no layer could take over."""
    lost = []
    for node in list(graph.nodes):
        before, norm, inputs = source(node), norm_of(node, modules), node.all_input_nodes
        if before is None or norm is None:
            continue
        layer = module_of(before, modules)
        single = type(layer) in _FOLDS and is_single(before, str(before.target))
        if layer is None or not single or has_more(layer, tied) or not fold(layer, norm[1]):
            lost.append(norm[0])
        node.replace_all_uses_with(before)
        graph.erase_node(node)
        for each in inputs:  # its weights, too, where it is a function and no other has them
            if each.op == "get_attr" and not each.users:
                graph.erase_node(each)
    return lost


@torch.no_grad()
def fold(layer: nn.Module, norm: nn.Module) -> bool:
    """Give the layer what the batch norm behind it does when it evaluates; whether that was possible."""
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    assert isinstance(layer.weight, nn.Parameter)
    assert isinstance(layer.bias, nn.Parameter | None)
    if transposed and layer.groups > 1:
        return False
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return False
    if norm.num_features != layer.weight.shape[1 if transposed else 0]:  # it normalizes another dimension
        return False
    scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
    shift = (0.0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    sides = [1] * layer.weight.dim()
    sides[1 if transposed else 0] = -1
    layer.weight.mul_(scale.view(sides))
    layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift)
    return True
