"""How a network sees the plane: the training points in its layers, and the class that it predicts everywhere."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import in_mode, plain_path
from farkas_exp.machine.errors import UserError

CELLS = 40
"""Of each side of the map of classes."""


@torch.no_grad()
def plane_figures(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """The points with their labels, the activations of some layers at them, and the probability of class 1 around.

    The layers are the fourth, the middle and the last one (Figures 6 to 11 of the separation paper), numbered from 1.
    """
    points = images.flatten(1).float()
    if points.shape[1] != 2:
        raise UserError(f"diagnostics.measures: plane is for points of two values, and these have {points.shape[1]}")
    outputs: list[Tensor] = []
    activations = [module for module in model.modules() if isinstance(module, Activation)]
    margin = 0.3 * (points.amax(0) - points.amin(0))
    low, high = points.amin(0) - margin, points.amax(0) + margin
    axes = [torch.linspace(float(a), float(b), CELLS, device=images.device) for a, b in zip(low, high, strict=True)]
    places = torch.cartesian_prod(*axes).view(-1, *images.shape[1:])
    with plain_path(), in_mode(model, training=False):
        with ExitStack() as hooks:
            for each in activations:
                hooks.enter_context(each.register_forward_hook(lambda *given: outputs.append(given[-1])))
            model(images)
        sure = model(places).float().softmax(1)[:, 1].view(CELLS, CELLS)
    layers = sorted({min(4, len(outputs)), max(1, len(outputs) // 2), len(outputs)})
    return {
        "points": _rounded(points),
        "labels": labels.tolist(),
        "activations": {str(layer): _rounded(outputs[layer - 1].flatten(1)) for layer in layers},
        "extent": _rounded(torch.stack([low, high], 1).flatten()),
        "class_1": _rounded(sure),
    }


def _rounded(values: Tensor) -> Any:
    """Four digits are enough for a picture; what is not finite is null in the file."""
    found = [float(f"{value:.4g}") for value in values.double().flatten().tolist()]
    columns = values.shape[-1]
    return found if values.dim() == 1 else [found[i : i + columns] for i in range(0, len(found), columns)]
