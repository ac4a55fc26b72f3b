"""Dead units, dead points and the Farkas margin, layer by layer.

Of a layer with pre-activations z[i, j] (point i, unit j) and an activation of cutoff c: a unit is dead if z <= c at
every point, a point is dead if z <= c at every unit. A Farkas layer has no dead points. The points of a linear layer
are the samples; those of a convolution are the pairs of a sample and a position, since the guarantee holds at each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from farkas_exp.layers import Activation, plain_path


@dataclass(frozen=True)
class LayerActivity:
    """What one activated layer does on a batch.

    Attributes:
        name: the activation's place in the network.
        units: number of units (channels).
        points: number of points (samples, or samples times positions).
        dead_units: fraction of units that are dead.
        dead_points: fraction of points that are dead.
        margin: min over points of max over units of z; above the cutoff where no point is dead.
    """

    name: str
    units: int
    points: int
    dead_units: float
    dead_points: float
    margin: float


@torch.no_grad()
def measure_activity(model: nn.Module, images: Tensor) -> list[LayerActivity]:
    """Measure every activated layer of `model` on `images` (N, C, H, W), in evaluation mode.

    The model is left in the mode in which it was. Layers come in the order of the computation.
    """
    found: list[LayerActivity] = []
    handles = [
        module.register_forward_pre_hook(_observer(name, found))
        for name, module in model.named_modules()
        if isinstance(module, Activation)
    ]
    training = model.training
    model.eval()
    try:
        with plain_path():
            model(images)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def _observer(name: str, found: list[LayerActivity]):
    def observe(activation: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(activation, Activation)
        found.append(_activity(name, inputs[0], activation.cutoff))

    return observe


def _activity(name: str, pre_activation: Tensor, cutoff: float) -> LayerActivity:
    """The activity of one layer, from (N, units) or (N, units, H, W)."""
    z = pre_activation.float().flatten(2) if pre_activation.dim() > 2 else pre_activation.float()[..., None]
    units, points = z.shape[1], z.shape[0] * z.shape[2]
    largest = z.amax(1)
    return LayerActivity(
        name=name.removesuffix(".activation"),
        units=units,
        points=points,
        dead_units=float((z.amax((0, 2)) <= cutoff).float().mean()),
        dead_points=float((largest <= cutoff).float().mean()),
        margin=float(largest.min()),
    )
