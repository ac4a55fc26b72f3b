"""What a Farkas layer guarantees, and what it attains on given inputs."""

from contextlib import ExitStack
from dataclasses import dataclass
from math import nan
from typing import Any, overload

import torch
from torch import Tensor, nn

from farkas_exp.layers.augmented import aggregate
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer
from farkas_exp.layers.paths import in_mode, plain_path, single_precision
from farkas_exp.layers.residual import FarkasResidualConv2d
from farkas_exp.machine.errors import UserError

FARKAS = (FarkasLayer, FarkasCompletion)


@dataclass(frozen=True)
class Certificate:
    """The bound of Theorem 3.2 and Corollary 3.3 for a layer, and the value that it attains.

    Attributes:
        margin: the minimum over samples and positions of the largest pre-activation, max_i z_i.
        lambda_b: lambda^T b, the lower bound that the weights and biases guarantee for every input.
        cutoff: the activation's cutoff c.
    """

    margin: float
    lambda_b: float
    cutoff: float

    @property
    def strict(self) -> bool:
        """Whether max_i z_i > c is guaranteed for every input, as Theorem 3.2 asks; otherwise only >= is."""
        return self.lambda_b > self.cutoff

    @property
    def active(self) -> bool:
        """Whether every sample and position has a unit beyond the cutoff, on the given inputs."""
        return self.margin > self.cutoff


class Certificates(dict[str, Certificate]):
    """The certificate of every Farkas layer of a network, by the layer's name."""

    @property
    def strict(self) -> bool:
        """Whether all of them are."""
        return all(each.strict for each in self.values())

    @property
    def active(self) -> bool:
        """Whether all of them are, on the given inputs."""
        return all(each.active for each in self.values())


@torch.no_grad()
def lambda_b(layer: FarkasLayer | FarkasCompletion) -> float:
    """lambda^T b of a Farkas layer, in float64; NaN if a parameter is not finite: then nothing is guaranteed.

    With b_m = max(t + margin - Agg(b), b_m) it is lambda_m * max(t + margin, Agg(b) + b_m), free of cancellation.
    """
    if not all(torch.isfinite(parameter).all() for parameter in layer.parameters()):
        return nan
    coefficient, lambda_m = layer.coefficients()
    bias = (layer.free()[1] if isinstance(layer, FarkasLayer) else layer.bias).double()
    attained = aggregate(bias[:-1], coefficient) + bias[-1]
    least = layer.rule.bound(lambda_m)
    return float(lambda_m) * max(float(least), float(attained))


@overload
def certify(  # type: ignore[overload-overlap]
    layer: FarkasLayer | FarkasCompletion, input: Tensor, shortcut: Tensor | None = None
) -> Certificate: ...


@overload
def certify(layer: nn.Module, input: Tensor) -> Certificates: ...


@torch.no_grad()
@single_precision()
def certify(layer: nn.Module, input: Tensor, shortcut: Tensor | None = None) -> Certificate | Certificates:
    """Certify a Farkas layer on inputs, or every Farkas layer of a network on images.

    The margin is at least `lambda_b` up to the rounding of the layer's own precision (about 1e-2 of the
    pre-activations' size in bfloat16); check strictness in float64.

    Args:
        layer: a Farkas layer, or a network with some, which is certified in evaluation mode. What stands between a
            layer and its activation is not seen; the margin of a layer that the images do not reach is NaN.
        input: of the layer: (..., F), (N, C, H, W) or (C, H, W); or the images of the network.
        shortcut: (N, channels, H', W'), for a residual layer only.

    Raises:
        ValueError: an empty input, a residual layer without a shortcut, or another layer with one, or a network without
            Farkas layers.
        UserError: what is given is no network, or the input no tensor, or for a layer one of whole numbers.
    """
    check_network(layer)
    if not isinstance(input, Tensor) or (isinstance(layer, FARKAS) and not input.is_floating_point()):
        got = input.dtype if isinstance(input, Tensor) else f"a {type(input).__name__}"
        raise UserError(f"input: expected a torch.Tensor of floating-point numbers, got {got}")
    if not input.numel():
        raise ValueError("an empty input certifies nothing")
    if not isinstance(layer, FARKAS):
        return _certify_network(layer, input)
    if isinstance(layer, FarkasResidualConv2d) != (shortcut is not None):
        raise ValueError("a residual Farkas layer is certified with its shortcut, any other layer without one")
    return _certificate(layer, _margin(layer, layer(input) if shortcut is None else layer(input, shortcut)))


def check_network(model: Any) -> None:
    """Refuse anything but a network, such as its name, its class or a conversion.

    Raises:
        UserError: it is none.
    """
    if isinstance(model, nn.Module):
        return
    got = repr(model) if isinstance(model, str) else getattr(model, "__name__", f"a {type(model).__name__}")
    hint = "; call it first" if callable(model) else "; give its .network" if hasattr(model, "network") else ""
    raise UserError(f"model: expected a network (torch.nn.Module), got {got}{hint}")


def _margin(layer: nn.Module, outputs: Tensor) -> float:
    """The least largest pre-activation among these outputs of a layer."""
    dim = layer.dim if isinstance(layer, FarkasCompletion) else -3 if isinstance(layer, FarkasConv2d) else -1
    return float(outputs.amax(dim).min())


def _certificate(layer: nn.Module, margin: float) -> Certificate:
    assert isinstance(layer, FARKAS)
    scale = layer.scaling.of_branch if isinstance(layer, FarkasResidualConv2d) else 1.0
    return Certificate(margin, scale * lambda_b(layer), scale * layer.rule.cutoff)


def _certify_network(network: nn.Module, images: Tensor) -> Certificates:
    names = {module: name for name, module in network.named_modules() if isinstance(module, FARKAS)}
    if not names:
        raise ValueError("there is no Farkas layer in this network; `convert` makes some")
    margins: dict[nn.Module, list[float]] = {layer: [] for layer in names}

    def note(layer: nn.Module, inputs: Any, outputs: Tensor) -> None:
        if outputs.numel():  # a layer may get none of the images
            margins[layer].append(_margin(layer, outputs))

    eager = torch.compiler.set_stance("force_eager")  # compiled code calls no hooks
    with ExitStack() as hooks, eager, plain_path(), in_mode(network, training=False):
        for layer in names:
            hooks.enter_context(layer.register_forward_hook(note))
        network(images)
    # float64 holds the margins of any network; NaN if that of one call is, or if there was no call
    least = {layer: torch.tensor(each or [nan], dtype=torch.float64).min().item() for layer, each in margins.items()}
    return Certificates((name, _certificate(layer, least[layer])) for layer, name in names.items())
