"""The fused Functions against the plain formulas that autograd differentiates."""

import pytest
import torch

from farkas_exp.kernels import accelerate
from farkas_exp.kernels.fused import Augment
from farkas_exp.layers.augmented import augment_bias, augment_weight
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.rule import FarkasRule
from tests.networks import normal

SHAPES = {"linear": (4, 7), "conv": (4, 3, 3, 3), "1x1": (4, 3, 1, 1), "one free row": (1, 3, 3, 3)}


def parameters(shape, last_bias, margin=0.0, aggregation="sum"):
    """A weight, a bias whose last entry wins ("above"), loses ("below") or ties with the aggregate, and the rule."""
    coefficient = FarkasRule(aggregation).coefficient(shape[0] + 1)
    weight, bias = normal(*shape), normal(shape[0] + 1, seed=1)
    limit = -coefficient * bias[:-1].sum() + margin
    bias[-1] = limit + {"above": 1.0, "below": -1.0, "tie": 0.0}[last_bias]
    return weight.requires_grad_(), bias.requires_grad_(), coefficient


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("last_bias", ["above", "below", "tie"])
@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_fast_path_equals_the_plain_formulas_with_their_gradients(shape, aggregation, last_bias, channels_last):
    if channels_last and len(shape) != 4:
        pytest.skip("a layout of images")
    weight, bias, coefficient = parameters(shape, last_bias, aggregation=aggregation)
    if channels_last:
        weight = weight.detach().to(memory_format=torch.channels_last).requires_grad_()
    cotangents = normal(shape[0] + 1, *shape[1:], seed=2), normal(shape[0] + 1, seed=3)
    fast = Augment.apply(weight, bias, coefficient, 0.0)
    plain = augment_weight(weight, coefficient), augment_bias(bias, coefficient, 0.0)
    if channels_last:
        assert fast[0].is_contiguous(memory_format=torch.channels_last)
    mine = torch.autograd.grad(fast, (weight, bias), cotangents)
    theirs = torch.autograd.grad(plain, (weight, bias), cotangents)
    for a, b in zip((*fast, *mine), (*plain, *theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("last_bias", ["above", "below"])
def test_first_and_second_derivatives_are_right(last_bias):
    weight, bias, coefficient = parameters((3, 2, 2, 2), last_bias, margin=0.25, aggregation="mean")

    def smooth(weight, bias):
        full_weight, full_bias = Augment.apply(weight, bias, coefficient, 0.25)
        return full_weight.pow(3), full_bias.pow(3)

    assert torch.autograd.gradcheck(smooth, (weight, bias))
    assert torch.autograd.gradgradcheck(smooth, (weight, bias))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_gets_no_gradient_and_the_other_its_own(frozen):
    layer = accelerate(FarkasConv2d(2, 4, 3, padding=1), torch.device("cpu"))
    getattr(layer, frozen).requires_grad_(False)
    other = layer.bias if frozen == "weight" else layer.weight
    gradients = []
    for path in ("fast", "plain"):
        layer.zero_grad()
        if path == "fast":
            layer(normal(2, 2, 5, 5).float()).pow(2).sum().backward()
        else:
            with plain_path():
                layer(normal(2, 2, 5, 5).float()).pow(2).sum().backward()
        assert getattr(layer, frozen).grad is None
        gradients.append(other.grad)
    torch.testing.assert_close(*gradients)
