"""`initialize` applies an initialization by its name, to plain and Farkas layers alike.

A Farkas layer has m - 1 free weight rows and m biases; its last row follows from the others. An initialization replaces
what the network's builder drew from PyTorch's defaults.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.config.parsing import build_groups, with_options
from farkas_exp.config.schema import InitConfig
from farkas_exp.initialization.matched import classifier_of
from farkas_exp.initialization.residual import count_residual_branches, scale_last_layers
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import SCALAR_MODULES
from farkas_exp.registry import INITIALIZATIONS, Initialization


def initialize(
    model: nn.Module,
    init: str | Mapping[str, Any] | InitConfig,
    *,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    twin: nn.Module | None = None,
    seed: int = 0,
    **options: Any,
) -> None:
    """Initialize `model` in place, on the CPU.

    Args:
        model: with PyTorch's default weights, as built.
        init: one of `INITIALIZATIONS`, or the group as in the configuration, or as a mapping of its keys.
        images: (N, C, H, W) float, for an initialization that needs them: a batch, or the whole training set.
        labels: (N,), of the images.
        twin: the Farkas network beside a plain one.
        seed: of the private generator.
        options: other keys of the group, beside its name.

    Raises:
        UserError: an unknown name, or an option that does not fit the name or the network.
    """
    config: InitConfig = build_groups(init=with_options(init, options)).init
    entry = INITIALIZATIONS[config.name]
    branches = _check_network(config, entry, model)
    generator = torch.Generator().manual_seed(seed)
    asked = {**vars(config), "generator": generator, "images": images, "labels": labels, "twin": twin}
    for need in entry.needs:
        given = asked[need]
        if need in _NEEDED and (given is None or (isinstance(given, Tensor) and not given.numel())):
            raise UserError(f"init.name: {entry.name} needs {_NEEDED[need]}")
    entry.build(model, **{name: asked[name] for name in entry.needs})
    if config.classifier_std is not None:
        nn.init.normal_(classifier_of(model).weight, 0.0, config.classifier_std, generator=generator)
    factor = config.last_scale * branches**config.last_depth_exponent if branches else 1.0
    if factor != 1:
        scale_last_layers(model, factor)


_NEEDED = {
    "images": "training images", "labels": "the labels of the images", "bias": "a number, such as init.bias=20",
    "twin": "a plain network that has a Farkas twin, such as resnet34",
}  # fmt: skip
"""What an initialization cannot do without, in words."""


def _check_network(config: InitConfig, entry: Initialization, model: nn.Module) -> int:
    """Refuse what does not fit the network; return the number of its residual branches."""
    own = any(isinstance(module, SCALAR_MODULES) for module in model.modules())
    if own and config != InitConfig():
        raise UserError("init: FixUp brings its own initialization; use init=pytorch without last_scale and the like")
    if (own or entry.scales) and any(getattr(module, "standardization", None) for module in model.modules()):
        scaling = "FixUp's own" if own else entry.name
        raise UserError(f"init.name: {scaling} scales weights, and a standardized weight undoes it; use weight=none")
    branches = count_residual_branches(model)
    asked = {
        f"name: {entry.name}": entry.branches,
        "last_scale": config.last_scale != 1,
        "last_depth_exponent": config.last_depth_exponent != 0,
    }
    for key, value in asked.items():
        if value and not branches:
            raise UserError(f"init.{key} needs a network with residual branches")
    return branches
