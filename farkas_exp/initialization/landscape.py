"""Starts from which networks are known to learn badly or not at all.

From "Truth or backpropaganda?" (Goldblum et al. 2020, Section 2): biases far from zero, all zeros, and the local
minimum that an MLP inherits from a linear classifier (Lemma 1, Theorem 1).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farkas_exp.initialization.random import drawn_layers, zero_bias
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.machine.errors import UserError
from farkas_exp.models.kit import Unit
from farkas_exp.models.rectangular import RectangularNet

CLASSIFIER_STEPS = 2000
"""The most iterations of L-BFGS for the linear classifier."""


@torch.no_grad()
def zero_(model: nn.Module) -> None:
    """Set all weights and biases of linear and convolution layers to zero."""
    for layer in drawn_layers(model):
        if isinstance(layer, FarkasLayer) and layer.rule.margin == 0:
            raise UserError(
                "init.name: zero makes all pre-activations of a Farkas layer 0 (Algorithm 1 has >= where Theorem 3.2"
                " has >); give it a margin, such as aggregation.margin=0.1"
            )
        layer.weight.zero_()
        zero_bias(layer)


@torch.no_grad()
def shift_biases(model: nn.Module, bias: float) -> None:
    """Add `bias` to every bias, and keep the rest."""
    for own in _biases(model):
        own.add_(bias)


@torch.no_grad()
def uniform_biases(model: nn.Module, bias: float, generator: torch.Generator) -> None:
    """Draw every bias from U(-bias, bias), and keep the rest."""
    for own in _biases(model):
        nn.init.uniform_(own, -bias, bias, generator=generator)


def _biases(model: nn.Module) -> list[Tensor]:
    own = [layer.bias for layer in drawn_layers(model) if layer.bias is not None]
    # behind a layer, an affine normalization undoes the layer's bias, and so the start, unless its own has it as well
    of_layers = set(own)
    others = [value for key, value in model.named_parameters() if key.endswith("bias") and value not in of_layers]
    return [*own, *others]


def inherited_minimum(weight: Tensor, bias: Tensor, widths: list[int], points: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The parameters of a ReLU network that equals the linear classifier A x + b on the points (Lemma 1).

    With A = U S V: A_1 = [S V; 0] and b_1 = c 1 with c = max |A_1 x_i| + 1; in the middle A_l = [I 0; 0 0] and
    b_l = [0; c 1]; at the end A_L = [U 0] and b_L = b - c A_L 1. Every activation is at least 1 at every point, so the
    network is linear around the points, and a minimum of the linear classifier is one of the network (Theorem 1). The
    proof's "c > 0" for all activations is the 1.

    Args:
        weight: A, (classes, inputs).
        bias: b, (classes,).
        widths: of the hidden layers, each at least min(classes, inputs).
        points: (N, inputs).

    Returns:
        (weight, bias) of each layer, the last one included.
    """
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    rank = len(values)
    assert min(widths) >= rank
    first = weight.new_zeros(widths[0], weight.shape[1])
    first[:rank] = values[:, None] * right
    c = (points @ first.T).abs().max() + 1
    layers = [(first, c.expand(widths[0]).clone())]
    for before, width in pairwise(widths):
        middle, shift = weight.new_zeros(width, before), c.expand(width).clone()
        middle[:rank, :rank] = torch.eye(rank, dtype=weight.dtype)
        shift[:rank] = 0
        layers.append((middle, shift))
    last = weight.new_zeros(weight.shape[0], widths[-1])
    last[:, :rank] = left
    layers.append((last, bias - c * last.sum(1)))
    return layers


def linear_classifier(points: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (classes, inputs) and bias (classes,) with the least cross-entropy, by L-BFGS from zero in float64.

    If the points are linearly separable there is no minimum, and the iterations just end.
    """
    points = points.double()
    weight = torch.zeros(classes, points.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=CLASSIFIER_STEPS, max_eval=2 * CLASSIFIER_STEPS, tolerance_grad=1e-10,
        tolerance_change=1e-14, history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(points, weight, bias), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


@torch.no_grad()
def local_minimum_(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Put a plain MLP into the local minimum that it inherits from the linear classifier of these images.

    They are the whole training set, (N, C, H, W), without augmentation.
    """
    units = list(model.hidden) if isinstance(model, RectangularNet) and not model.spatial else []
    plain = [unit for unit in units if isinstance(unit, Unit) and isinstance(unit.layer, nn.Linear)]
    fits = all(unit.activation.name == "relu" and isinstance(unit.norm, nn.Identity) for unit in plain)
    if not units or len(plain) != len(units) or not fits:
        raise UserError(
            "init.name: local_minimum (Lemma 1) is for model=mlp, plain, without normalization and shortcuts, with ReLU"
        )
    points = images.flatten(1).double()
    assert isinstance(model, RectangularNet)
    layers = [unit.layer for unit in plain] + [model.classifier]
    widths = [layer.get_parameter("weight").shape[0] for layer in layers[:-1]]
    classes = layers[-1].get_parameter("weight").shape[0]
    least = min(classes, points.shape[1])
    if min(widths) < least:
        raise UserError(f"model.width: {min(widths)} is too narrow for init=local_minimum; it must be >= {least}")
    weight, bias = linear_classifier(points, labels, classes)
    for layer, (own_weight, own_bias) in zip(layers, inherited_minimum(weight, bias, widths, points), strict=True):
        layer.get_parameter("weight").copy_(own_weight)
        layer.get_parameter("bias").copy_(own_bias)
