"""Eigenvalues of the loss's Hessian, and norms of gradient and parameters."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from farkas_exp.measures.hessian import (
    hessian_extremes,
    lanczos_extremes,
    loss_and_gradient_norm,
    parameter_distance,
    parameter_norm,
)
from farkas_exp.measures.ntk import tangent_kernel
from farkas_exp.models.create import create_model
from tests.points import moons


def exact_hessian(model, images, labels):
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(vector):
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, named, images), labels)

    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("name", ["mlp", "farkas_mlp"])
def test_lanczos_finds_the_extreme_eigenvalues_of_the_exact_hessian(name):
    torch.manual_seed(0)
    model = create_model(name, 2, in_channels=2, image_size=1, depth=2, width=5, activation="softplus").double()
    images, labels = moons(30)
    images = images.double()
    exact = torch.linalg.eigvalsh(exact_hessian(model, images, labels))
    for steps in (200, 40):  # 200: more than there are parameters, so the space is exhausted
        smallest, largest = hessian_extremes(model, images, labels, steps=steps)
        assert smallest == pytest.approx(float(exact[0]), abs=1e-8 * float(exact[-1]))
        assert largest == pytest.approx(float(exact[-1]), rel=1e-8)


def test_lanczos_on_a_matrix_with_a_wide_spectrum():
    """The shifted power method of the paper finds the smallest eigenvalue to the accuracy of the largest only."""
    values = torch.cat((torch.linspace(-1e-3, 1, 99, dtype=torch.float64), torch.tensor([1e3], dtype=torch.float64)))
    basis, _ = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    matrix = basis @ torch.diag(values) @ basis.T
    smallest, largest = lanczos_extremes(lambda v: matrix @ v, torch.ones(100, dtype=torch.float64), 100)
    assert (smallest, largest) == (pytest.approx(-1e-3, abs=1e-9), pytest.approx(1e3))
    assert lanczos_extremes(lambda v: 2 * v, torch.ones(5, dtype=torch.float64), 5) == pytest.approx((2, 2))
    assert lanczos_extremes(torch.zeros_like, torch.ones(5, dtype=torch.float64), 5) == (0, 0)


def test_norms_of_parameters_and_gradient():
    model = create_model("mlp", 2, in_channels=2, image_size=1, depth=2, width=5)
    images, labels = moons(30)
    F.cross_entropy(model(images), labels).backward()
    gradient = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in model.parameters()))
    loss, norm = loss_and_gradient_norm(model, images, labels)
    assert norm == pytest.approx(gradient, rel=1e-5)
    assert loss == pytest.approx(float(F.cross_entropy(model(images), labels).detach()))
    assert parameter_norm(model) == pytest.approx(
        math.sqrt(sum(float(p.detach().pow(2).sum()) for p in model.parameters()))
    )
    assert model.training


def test_a_norm_whose_square_is_beyond_single_precision_is_a_number():
    first, second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(first.weight, 3e25)
    nn.init.constant_(second.weight, -1e25)
    assert parameter_norm(first) == pytest.approx(3e25)
    assert parameter_distance(first, second) == pytest.approx(4e25)


class WithIdlePart(nn.Module):
    """A network in double precision with a parameter that its output does not depend on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 2)).double()
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, images):
        return self.layers(images)


def test_a_parameter_that_does_nothing_adds_zeros_and_no_more():
    model = WithIdlePart()
    images, labels = moons(20)
    images = images.double()
    exact = torch.linalg.eigvalsh(exact_hessian(model.layers, images, labels))
    extremes = hessian_extremes(model, images, labels, steps=40)
    assert extremes == pytest.approx((min(0.0, float(exact[0])), float(exact[-1])), abs=1e-9)
    assert torch.equal(tangent_kernel(model, images[:3]), tangent_kernel(model.layers, images[:3]))


def test_the_first_vector_of_lanczos_is_drawn_from_its_seed_alone():
    model = WithIdlePart()
    images, labels = moons(20)
    found = []
    for own, other in ((1, 0), (1, 5), (2, 5)):
        torch.manual_seed(other)
        found.append(hessian_extremes(model, images.double(), labels, steps=3, seed=own))
    assert found[0] == found[1] != found[2]
