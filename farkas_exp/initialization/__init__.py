"""Initializations by name; each works on plain and Farkas layers alike.

A Farkas layer has m - 1 free weight rows and m biases; its last row follows from the others and is not initialized. An
initialization replaces what the network's builder drew from PyTorch's defaults.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from farkas_exp.errors import UserError, unknown
from farkas_exp.initialization.lsuv import lsuv_
from farkas_exp.initialization.random import kaiming_, orthogonal_, rai_, xavier_
from farkas_exp.initialization.residual import has_residual_branches, scale_last_layers, zero_last_layers
from farkas_exp.models import SCALAR_MODULES

Initializer = Callable[[nn.Module, float | None, Tensor | None, torch.Generator], None]

INITS: Mapping[str, Initializer] = {
    "pytorch": lambda model, gain, images, generator: None,
    "zero_last": lambda model, gain, images, generator: zero_last_layers(model),
    "xavier": lambda model, gain, images, generator: xavier_(model, generator, gain),
    "kaiming": lambda model, gain, images, generator: kaiming_(model, generator, gain),
    "orthogonal": lambda model, gain, images, generator: orthogonal_(model, generator, gain),
    "lsuv": lambda model, gain, images, generator: lsuv_(model, images, generator),
    "rai": lambda model, gain, images, generator: rai_(model, generator),
}
"""What `init.name` may be: functions of the model, the gain, a batch of images and a private generator."""

WITH_GAIN = ("xavier", "kaiming", "orthogonal")


def initialize(
    model: nn.Module,
    name: str,
    *,
    gain: float | None = None,
    last_scale: float = 1.0,
    images: Tensor | None = None,
    seed: int = 0,
) -> None:
    """Initialize `model` in place, on the CPU.

    Args:
        model: as its builder left it, with PyTorch's default weights.
        name: one of `INITS`.
        gain: factor on the standard deviation of `xavier`, `kaiming` and `orthogonal`; None for their own (1, sqrt 2
            and sqrt 2).
        last_scale: factor on the last layer of every residual branch, weight and bias, after the initialization.
        images: (N, C, H, W) float batch, for `lsuv`.
        seed: of the private generator.

    Raises:
        UserError: an unknown name, or an option that does not fit the name or the network.
    """
    if name not in INITS:
        raise unknown("init.name", name, INITS)
    if gain is not None and name not in WITH_GAIN:
        raise UserError(f"init.gain: init {name} has no gain; leave it at null or choose from: {', '.join(WITH_GAIN)}")
    if gain is not None and gain <= 0:
        raise UserError(f"init.gain: {gain!r} is out of range; it must be positive")
    if last_scale < 0:
        raise UserError(f"init.last_scale: {last_scale!r} is out of range; it must be at least 0")
    own = any(isinstance(module, SCALAR_MODULES) for module in model.modules())
    if own and (name != "pytorch" or last_scale != 1):
        raise UserError("init: FixUp brings its own initialization; use init=pytorch and init.last_scale=1")
    if (name == "zero_last" or last_scale != 1) and not has_residual_branches(model):
        key = "init.name: zero_last" if name == "zero_last" else "init.last_scale"
        raise UserError(f"{key} needs a network with residual branches")
    INITS[name](model, gain, images, torch.Generator().manual_seed(seed))
    if last_scale != 1:
        scale_last_layers(model, last_scale)
