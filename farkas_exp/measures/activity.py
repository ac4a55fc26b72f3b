"""Dead units, dead points and the Farkas margin, layer by layer.

Of a layer with pre-activations z[i, j] (point i, unit j) and an activation of cutoff c: a unit is dead if z <= c at
every point, a point is dead if z <= c at every unit. A Farkas layer with lambda^T b > 0 has none of the latter. The
points of a linear layer are the samples; those of a convolution are the pairs of a sample and a position, and those of
a transformer the tokens, since the guarantee holds at each. A layer with a pre-activation that is not a number (NaN),
as in a network that has diverged, has NaN for all its figures: NaN is neither above the cutoff nor at or below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.paths import in_mode
from farkas_exp.layers.residual import FarkasResidualConv2d
from farkas_exp.layers.watching import each_pre_activation
from farkas_exp.methods.separation import separation_penalty


@dataclass(frozen=True)
class LayerActivity:
    """The activity of one activated layer on a batch.

    Attributes:
        name: the activation's place in the network.
        units: number of units (channels).
        points: number of points (samples, or samples times positions).
        dead_units: fraction of units that are dead.
        dead_points: fraction of points that are dead.
        margin: min over points of max over units of z; above the cutoff where no point is dead.
        affine_units: fraction of units that are above the cutoff at every point.
        sep_u: g_U of the separation constraints with c = 1/2: the slacks of the units (Sep-U), summed.
        sep_p: g_P: the slacks of the points.
        active: fraction of pairs of a point and a unit above the cutoff, by kind of unit: `free` units, whose weights
            are the layer's own, the `aggregated` one of Algorithm 1, and the `appended` one of Algorithm 2.
    """

    name: str
    units: int
    points: int
    dead_units: float
    dead_points: float
    margin: float
    affine_units: float
    sep_u: float
    sep_p: float
    active: Mapping[str, float]


@torch.no_grad()
def measure_activity(model: nn.Module, images: Tensor) -> list[LayerActivity]:
    """Measure every activated layer of `model` on `images` (N, C, H, W), in evaluation mode.

    The model's mode is restored. Layers come in the order of computation.
    """
    facts: dict[str, tuple[float, str]] = {}
    layer = None
    for name, module in model.named_modules():  # an activation follows its layer
        if isinstance(module, (nn.Conv2d, nn.Linear, FarkasLayer)):
            layer = module
        elif isinstance(module, Activation):
            facts[name] = module.cutoff, last_kind(layer)
    found: list[LayerActivity] = []

    def see(name: str, z: Tensor) -> None:  # at once, or the pre-activations of all layers would fill the memory
        found.append(_activity(name, z, *facts[name]))

    with each_pre_activation(model, see), in_mode(model, training=False):
        model(images)
    return found


@torch.no_grad()
def dead_samples(model: nn.Module, images: Tensor) -> float:
    """The fraction of samples that die in the network: at some layer no unit is active for them, at no position.

    In a network of linear layers these are the dead points of the separation paper (its Remark 2.3). NaN if any
    pre-activation is.
    """
    dead = torch.zeros(len(images), device=images.device)
    cutoffs = {name: module.cutoff for name, module in model.named_modules() if isinstance(module, Activation)}

    def see(name: str, z: Tensor) -> None:
        largest = z.reshape(len(images), -1).amax(1)  # an image's tokens lie below each other
        dies = (largest <= cutoffs[name]).float().masked_fill_(largest.isnan(), torch.nan)
        torch.maximum(dead, dies, out=dead)

    with each_pre_activation(model, see), in_mode(model, training=False):
        model(images)
    return float(dead.mean())


def last_kind(layer: nn.Module | None) -> str:
    """The kind of a layer's last unit."""
    if isinstance(layer, FarkasResidualConv2d):
        return "appended"
    return "aggregated" if isinstance(layer, FarkasLayer) else "free"


def _activity(name: str, pre_activation: Tensor, cutoff: float, last: str = "free") -> LayerActivity:
    """The activity of one layer, from (N, units) or (N, units, H, W); `last` is the kind of its last unit."""
    z = pre_activation.float().flatten(2) if pre_activation.dim() > 2 else pre_activation.float()[..., None]
    units, points = z.shape[1], z.shape[0] * z.shape[2]
    largest = z.amax(1)
    flat = z.transpose(1, 2).flatten(0, 1)  # (points, units)
    undefined = torch.where(z.isnan().any(), torch.nan, 0.0)

    def share(hits: Tensor) -> float:
        return float(hits.double().mean() + undefined)

    active = flat > cutoff
    kinds = {"free": active} if last == "free" else {"free": active[:, :-1], last: active[:, -1:]}
    return LayerActivity(
        name=name.removesuffix(".activation"),
        units=units,
        points=points,
        dead_units=share(z.amax((0, 2)) <= cutoff),
        dead_points=share(largest <= cutoff),
        margin=float(largest.min()),
        affine_units=share(flat.amin(0) > cutoff),
        sep_u=float(separation_penalty([flat], points=False)),
        sep_p=float(separation_penalty([flat], units=False)),
        active={kind: share(hits) for kind, hits in kinds.items()},
    )
