"""A gain that gives a plain network the features of its Farkas twin: the scale without the geometry.

With `sum`, the aggregated component of a Farkas layer has about as much energy as all others together, so `sum` is also
a gain, whereas PyTorch's default U(+-1/sqrt(fan_in)) lets the signal of a plain network fade. This initialization is
the control for that: the plain network's default weights, all times one gain.
"""

import math

import torch
from torch import Tensor, nn

from farkas_exp.initialization.random import drawn_layers, weight_layers
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.paths import in_mode
from farkas_exp.machine.errors import UserError
from farkas_exp.models.head import RandomProjection

IMAGES = 64
"""The most images to measure the variance on."""
TOLERANCE = 0.01
LOWEST, HIGHEST = 0.25, 8.0
"""The range of the gain."""
TRIES = 60


@torch.no_grad()
def match_features_(model: nn.Module, twin: nn.Module, images: Tensor) -> None:
    """Scale the hidden weights of `model` by the one gain that gives its features the variance of the twin's.

    The features are the input of the classifier, and their variance is that between images, averaged over the units.
    Bisection finds the gain, to 1 % of the variance. Biases and the classifier stay as they are. The network is plain
    and without normalization, its twin the Farkas network (sum) of the same depth.
    """
    batch = images[:IMAGES]
    wanted = feature_variance(twin, batch)
    if not 0 < wanted < math.inf:
        raise UserError(
            f"init.name: match_farkas: the features of the twin have the variance {wanted:g} on these images"
        )
    hidden = [layer.weight for layer in drawn_layers(model) if layer is not classifier_of(model)]
    scaled = 1.0
    low, high = LOWEST, HIGHEST
    for _ in range(TRIES):
        gain = math.sqrt(low * high)
        for weight in hidden:
            weight.mul_(gain / scaled)
        scaled = gain
        found = feature_variance(model, batch)
        if abs(found / wanted - 1) <= TOLERANCE:
            return
        low, high = (gain, high) if found < wanted else (low, gain)
    raise UserError(
        f"init.name: match_farkas finds no gain from {LOWEST:g} to {HIGHEST:g} that gives the features a variance of "
        f"{wanted:.3g}"
    )


def feature_variance(model: nn.Module, images: Tensor) -> float:
    """The variance of the classifier's input between the images, averaged over the units."""
    seen: list[Tensor] = []
    hook = classifier_of(model).register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with hook, torch.no_grad(), in_mode(model, training=False):
        model(images)
    return float(seen[0].double().var(0).mean())


def classifier_of(model: nn.Module) -> nn.Linear | nn.Conv2d | FarkasLayer | RandomProjection:
    """The last layer with a weight, trained or not."""
    *_, last = weight_layers(model)
    return next((module for module in model.modules() if isinstance(module, RandomProjection)), last)
