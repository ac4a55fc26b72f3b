"""Layer-sequential unit variance (Mishkin and Matas 2015, "All you need is a good init")."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from farkas_exp.initialization.random import orthogonal_, weight_layers
from farkas_exp.layers.paths import in_mode, plain_path
from farkas_exp.layers.residual import ResidualLayer
from farkas_exp.machine.errors import UserError

TOLERANCE = 0.1
TRIES = 10


@torch.no_grad()
def lsuv_(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Orthonormal weights and zero biases, then every layer scaled to an output of unit variance.

    In the order of computation, each layer is divided by the standard deviation of its output on `images`, a training
    batch, until that is within 0.1 of 1, at most ten times.

    The output of a layer is its own pre-activation: of a residual layer the branch without the shortcut, of a Farkas
    layer with its aggregated component (which is larger for `sum`, so that its weights become smaller).
    """
    orthogonal_(model, generator, gain=1.0)
    with in_mode(model, training=False):  # keeps the running statistics of batch norm
        for layer in _in_order(model, images):
            for _ in range(TRIES):
                std = _output_std(model, layer, images)
                if not math.isfinite(std):
                    name = next(name for name, module in model.named_modules() if module is layer)
                    raise UserError(f"init.name: lsuv: the output of {name or layer} is not finite on these images")
                if std == 0 or abs(std - 1) <= TOLERANCE:
                    break
                layer.get_parameter("weight").div_(std)


def _in_order(model: nn.Module, images: Tensor) -> list[nn.Module]:
    """The layers with a weight, in the order of their first use."""
    order: dict[nn.Module, None] = {}
    with watching(list(weight_layers(model)), lambda layer, output: order.setdefault(layer)), plain_path():
        model(images)
    return list(order)


def _output_std(model: nn.Module, layer: nn.Module, images: Tensor) -> float:
    seen: list[float] = []
    with watching([layer], lambda layer, output: seen.append(float(output.std(correction=0)))), plain_path():
        model(images)
    return seen[0]


@contextmanager
def watching(layers: Sequence[nn.Module], see: Callable[[nn.Module, Tensor], object]) -> Iterator[None]:
    """Call `see(layer, output)` with each layer's own output; that of a residual layer is its branch."""
    with ExitStack() as hooks:
        for layer in layers:
            if isinstance(layer, ResidualLayer):
                layer.branch = partial(_watched, layer, layer.branch, see)  # type: ignore[method-assign]
                hooks.callback(vars(layer).pop, "branch")
            else:
                hook = layer.register_forward_hook(lambda layer, inputs, output: (see(layer, output), None)[1])
                hooks.enter_context(hook)
        yield


def _watched(
    layer: nn.Module, branch: Callable[[Tensor], Tensor], see: Callable[[nn.Module, Tensor], object], hidden: Tensor
) -> Tensor:
    output = branch(hidden)
    see(layer, output)
    return output
