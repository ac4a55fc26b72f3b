"""Initializations by name; each works on plain and Farkas layers alike.

A Farkas layer has m - 1 free weight rows and m biases; its last row follows from the others and is not initialized. An
initialization replaces what the network's builder drew from PyTorch's defaults.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from farkas_exp.errors import UserError, unknown
from farkas_exp.initialization.landscape import local_minimum_, shift_biases, uniform_biases, zero_
from farkas_exp.initialization.lsuv import lsuv_
from farkas_exp.initialization.matched import match_features_
from farkas_exp.initialization.random import kaiming_, orthogonal_, rai_, xavier_
from farkas_exp.initialization.residual import (
    count_residual_branches,
    identity_small_,
    scale_last_layers,
    zero_last_layers,
)
from farkas_exp.initialization.shortcuts import delta_orthogonal_, minus_identity_, residual_xavier_
from farkas_exp.models import SCALAR_MODULES


@dataclass(frozen=True)
class Material:
    """What an initialization may draw on beside the network: each takes what it needs."""

    generator: torch.Generator
    gain: float | None = None
    images: Tensor | None = None
    twin: nn.Module | None = None
    labels: Tensor | None = None
    bias: float | None = None


Initializer = Callable[[nn.Module, Material], None]

INITS: Mapping[str, Initializer] = {
    "pytorch": lambda model, given: None,
    "zero_last": lambda model, given: zero_last_layers(model),
    "xavier": lambda model, given: xavier_(model, given.generator, given.gain),
    "kaiming": lambda model, given: kaiming_(model, given.generator, given.gain),
    "orthogonal": lambda model, given: orthogonal_(model, given.generator, given.gain),
    "lsuv": lambda model, given: lsuv_(model, given.images, given.generator),
    "rai": lambda model, given: rai_(model, given.generator),
    "match_farkas": lambda model, given: match_features_(model, given.twin, given.images),
    "residual_xavier": lambda model, given: residual_xavier_(model, given.generator),
    "minus_identity": lambda model, given: minus_identity_(model, given.generator),
    "delta_orthogonal": lambda model, given: delta_orthogonal_(model, given.generator, given.gain),
    "identity_small": lambda model, given: identity_small_(model, given.generator),
    "zero": lambda model, given: zero_(model),
    "bias_shift": lambda model, given: shift_biases(model, given.bias),
    "bias_uniform": lambda model, given: uniform_biases(model, given.bias, given.generator),
    "local_minimum": lambda model, given: local_minimum_(model, given.images, given.labels),
}
"""What `init.name` may be."""

WITH_GAIN = ("xavier", "kaiming", "orthogonal", "delta_orthogonal")
WITH_BIAS = ("bias_shift", "bias_uniform")
WITH_BRANCHES = ("zero_last", "identity_small", "residual_xavier", "minus_identity")
WHOLE_SET = ("local_minimum",)
"""Inits that take the whole training set, not a batch of it."""


def initialize(
    model: nn.Module,
    name: str,
    *,
    gain: float | None = None,
    last_scale: float = 1.0,
    last_depth_exponent: float = 0.0,
    bias: float | None = None,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    twin: nn.Module | None = None,
    seed: int = 0,
) -> None:
    """Initialize `model` in place, on the CPU.

    Args:
        model: as its builder left it, with PyTorch's default weights.
        name: one of `INITS`.
        gain: factor on the standard deviation of `WITH_GAIN`; None for their own (1 for `xavier`, else sqrt 2).
        last_scale: factor on the last layer of every residual branch, weight and bias, after the initialization.
        last_depth_exponent: another such factor, the number of residual branches to this power.
        bias: what `bias_shift` adds to every bias, and the bound of `bias_uniform`.
        images: (N, C, H, W) float batch, for `lsuv` and `match_farkas`; the whole training set for `WHOLE_SET`.
        labels: (N,), for `local_minimum`.
        twin: the Farkas network beside a plain one, for `match_farkas`.
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
    if bias is not None and (name not in WITH_BIAS or bias <= 0):
        right = (
            "it must be positive" if name in WITH_BIAS else f"init {name} has none; only {', '.join(WITH_BIAS)} have"
        )
        raise UserError(f"init.bias: {bias!r} does not fit: {right}")
    if last_scale < 0:
        raise UserError(f"init.last_scale: {last_scale!r} is out of range; it must be at least 0")
    own = any(isinstance(module, SCALAR_MODULES) for module in model.modules())
    if own and (name != "pytorch" or last_scale != 1 or last_depth_exponent != 0):
        raise UserError("init: FixUp brings its own initialization; use init=pytorch without last_scale and the like")
    branches = count_residual_branches(model)
    keys = {f"name: {name}": name in WITH_BRANCHES, "last_scale": last_scale != 1}
    for key, asked in (keys | {"last_depth_exponent": last_depth_exponent != 0}).items():
        if asked and not branches:
            raise UserError(f"init.{key} needs a network with residual branches")
    material = Material(torch.Generator().manual_seed(seed), gain, images, twin=twin, labels=labels, bias=bias)
    INITS[name](model, material)
    factor = last_scale * branches**last_depth_exponent if branches else 1.0
    if factor != 1:
        scale_last_layers(model, factor)
