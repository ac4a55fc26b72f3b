"""The tangent kernel, and how far training moves it."""

import pytest
import torch
from torch.nn import functional as F

from farkas_exp.measures.ntk import kernel_change, kernel_correlation, tangent_kernel
from farkas_exp.models.create import create_model
from tests.points import moons


@pytest.mark.parametrize("name", ["mlp", "farkas_mlp", "resnet34", "farkasnet34"])
def test_the_tangent_kernel_is_the_jacobian_times_its_transpose(name):
    torch.manual_seed(0)
    sizes = {"depth": 2, "width": 5} if "mlp" in name else {"blocks": (1,), "widths": (4,), "normalization": "batch"}
    model = create_model(name, 3, in_channels=2, image_size=4, **sizes)
    images = torch.randn(4, 2, 4, 4)
    model.eval()
    rows = []
    for logit in model(images).flatten():
        parts = torch.autograd.grad(logit, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    matrix = torch.stack(rows)
    assert torch.allclose(tangent_kernel(model, images), matrix @ matrix.T, rtol=1e-4, atol=1e-5)


def trained_correlation(width, steps=200):
    """Correlation of a two-layer network's kernel before and after training on 25 moons points."""
    torch.manual_seed(0)
    images, labels = moons(25)
    model = create_model("mlp", 2, in_channels=2, image_size=1, depth=1, width=width)
    before = tangent_kernel(model, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    after = tangent_kernel(model, images)
    assert kernel_change(before, after) > 0
    return kernel_correlation(before, after)


def test_the_tangent_kernel_moves_less_in_wider_networks():
    narrow, middle, wide = (trained_correlation(width) for width in (16, 128, 1024))
    assert narrow < middle < wide
    assert narrow < 0.98
    assert wide > 0.999


def test_correlation_is_blind_to_scale_and_relative_change_is_not():
    kernel = torch.randn(5, 5)
    assert kernel_correlation(kernel, 3 * kernel) == pytest.approx(1)
    assert kernel_correlation(kernel, 2 - kernel) == pytest.approx(-1), "a coefficient of correlation, not a cosine"
    assert kernel_change(kernel, 3 * kernel) == pytest.approx(2)
