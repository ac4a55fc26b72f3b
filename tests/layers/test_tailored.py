"""The tailored leaky ReLU against its equations, and against correlations in random networks."""

import math
from typing import Any

import pytest
import torch

from farkas_exp.initialization.apply import initialize
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.tailored import correlation, slope_for, tailored_relu
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import create_model


@pytest.mark.parametrize("c", [-0.5, 0.0, 0.7])
@pytest.mark.parametrize("slope", [0.0, 0.3, 0.9])
def test_it_keeps_the_mean_square_and_maps_correlations_as_its_equation_says(slope, c):
    x, y = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = tailored_relu(x, slope), tailored_relu(c * x + math.sqrt(1 - c * c) * y, slope)
    assert first.square().mean().item() == pytest.approx(1.0, abs=0.01)
    assert (first * second).mean().item() == pytest.approx(correlation(c, slope), abs=0.01)


@pytest.mark.parametrize("target", [0.5, 0.9])
@pytest.mark.parametrize("depth", [20, 50, 200])
def test_the_slope_takes_the_correlation_to_its_target(depth, target):
    slope = slope_for(depth, target)
    assert 0 < slope < 1
    assert correlation(0.0, slope, depth) == pytest.approx(target, abs=1e-9)
    assert slope_for(2 * depth, target) > slope
    assert slope_for(1, target) == 0.0, "the ReLU does not reach it: 1 / pi"


def network(depth: int, activation: str | dict[str, Any]) -> torch.nn.Module:
    model = create_model("mlp", in_channels=1, image_size=16, depth=depth, width=256, activation=activation).double()
    initialize(model, "orthogonal", gain=math.sqrt(2) if activation == "relu" else 1.0, seed=0)
    return model


def test_a_deep_network_without_shortcuts_tells_inputs_apart_with_it_and_not_with_the_relu():
    images = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for name in ("relu", "tailored"):
        features = network(60, name).hidden(images.flatten(1)).detach()
        unit = features / features.norm(dim=1, keepdim=True)
        found[name] = (unit @ unit.T)[~torch.eye(6, dtype=torch.bool)].mean().item()
    assert found["relu"] > 0.98
    assert found["tailored"] == pytest.approx(0.9, abs=0.05)


def test_all_activations_have_the_slope_of_their_number():
    for target in (0.5, 0.9):
        model = network(30, {"name": "tailored", "target": target})
        activations = [m for m in model.modules() if isinstance(m, Activation)]
        slope, x = slope_for(30, target), torch.linspace(-2, 2, 9)
        assert {repr(each) for each in activations} == {f"Activation(tailored, cutoff=-inf, slope={slope:.4f})"}
        for activation in activations:
            torch.testing.assert_close(activation(x), tailored_relu(x, slope), rtol=0, atol=0)


def test_without_a_slope_it_is_the_relu_times_the_root_of_two():
    x = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(tailored_relu(x), math.sqrt(2) * torch.relu(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {}), ("mlp", {"residual": True}), ("farkas_mlp", {}), ("densenet40", {}), ("mobilenet_v2", {})],
)
def test_networks_with_shortcuts_or_farkas_layers_refuse_it(name, options):
    with pytest.raises(
        UserError, match=r"^activation.name: tailored is for networks of plain layers without shortcuts"
    ):
        create_model(name, activation="tailored", **options)
