"""SkipInit and ReZero: a learned multiplier of every residual branch, and what it leaves of the Farkas guarantee."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from farkas_exp.config.schema import OptimizerConfig
from farkas_exp.kernels import accelerate
from farkas_exp.layers.certificate import certify
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.residual import FarkasResidualConv2d, ResidualBlock, ResidualConv2d
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import create_model
from farkas_exp.training.optimizer import build_optimizer
from tests.layers.made_layers import scatter_parameters
from tests.networks import SMALL, normal, with_multipliers

CPU = torch.device("cpu")


def with_multiplier(layer: Any, start: float) -> Any:
    layer.multiplier = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    return layer


def layer_of(farkas: bool, **options: Any) -> Any:
    kind = FarkasResidualConv2d if farkas else ResidualConv2d
    layer = scatter_parameters(kind(3, 5, 3, padding=1, dtype=torch.float64, **options), 0)
    return accelerate(layer, CPU)


@pytest.mark.parametrize("last_bias", [-9.0, 9.0])
@pytest.mark.parametrize("farkas", [False, True])
def test_the_multiplier_of_weight_and_bias_is_one_of_the_branch_also_in_its_gradients(farkas, last_bias):
    layer = layer_of(farkas)
    with torch.no_grad():
        layer.bias[-1] = last_bias  # one of the two arguments of Algorithm 1's max, then the other
    hidden, x = normal(2, 3, 4, 4, seed=5), normal(2, 5, 4, 4, seed=6)
    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    branch, zero = layer(hidden, x * 0), torch.zeros(2, len(layer.bias), 4, 4, dtype=torch.float64)
    shortcut = layer(hidden, x) - branch
    expected = torch.autograd.grad((zero + factor * branch + shortcut).pow(2).sum(), (layer.weight, layer.bias, factor))
    multiplied = with_multiplier(layer, 0.7)
    out = multiplied(hidden, x)
    torch.testing.assert_close(out, factor * branch + shortcut)
    found = torch.autograd.grad(out.pow(2).sum(), (layer.weight, layer.bias, layer.multiplier))
    for mine, literal in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, literal)


@pytest.mark.parametrize("cutoff", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("margin", [0.0, 0.4])
@pytest.mark.parametrize("multiplier", [0.0, 0.3, 4.0, -2.0])
def test_one_unit_is_active_whatever_the_multiplier_is_also_at_the_worst_shortcut(multiplier, margin, cutoff):
    layer = with_multiplier(layer_of(True, margin=margin, cutoff=cutoff), multiplier)
    hidden, zero = normal(50, 3, 4, 4, seed=1), torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    certificate = certify(layer, hidden, 3 * normal(50, 5, 4, 4, seed=2))
    assert certificate.margin >= certificate.lambda_b - 1e-9
    bias, level = layer.augmented()[1].detach(), certificate.lambda_b
    worst = certify(layer, zero, (level - bias[:-1])[None, :, None, None])  # all pre-activations are equal
    assert worst.margin == pytest.approx(level, abs=1e-9)
    assert worst.margin >= cutoff + float(layer.coefficients()[1]) * margin - 1e-9


@pytest.mark.parametrize("name", [name for name in SMALL if name != "fixup34"])
def test_every_residual_network_starts_as_its_shortcuts_and_trains_its_multipliers(name):
    build = {"in_channels": 1, "image_size": 16, **SMALL[name]}
    torch.manual_seed(0)
    model = create_model(name, residual_scaling={"multiplier": 0.0}, **build)
    torch.manual_seed(0)
    other = create_model(name, **build)
    for block in other.modules():
        if isinstance(block, ResidualBlock):
            for parameter in block.branch_end()[0].parameters():
                nn.init.zeros_(parameter)
    images = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(model(images), other(images), rtol=0, atol=1e-6)
    own = [parameter for key, parameter in model.named_parameters() if key.endswith("multiplier")]
    assert len(own) == sum(isinstance(module, ResidualBlock) for module in model.modules()) > 0
    optimizer = build_optimizer(model, OptimizerConfig(), 0.1)
    (undecayed,) = [group["params"] for group in optimizer.param_groups if not group["weight_decay"]]
    assert {*own} <= {*undecayed}
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    optimizer.step()
    assert all(parameter.item() for parameter in own)


@pytest.mark.parametrize("name", ["farkasnet18", "farkasnet50"])
def test_the_kernels_know_the_multiplier(name):
    model = create_model(name, in_channels=1, image_size=8, residual_scaling={"multiplier": 0.7}, **SMALL[name])
    fast, images = accelerate(copy.deepcopy(model), CPU), torch.rand(32, 1, 8, 8)
    found = []
    for each in (fast, model):
        out = each(images)
        found.append((out, torch.autograd.grad(out.square().sum(), list(each.parameters()))))
    with plain_path():
        torch.testing.assert_close(found[0][0], model(images), rtol=1e-4, atol=1e-5)
    for mine, plain in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("multiplier", [0.0, -1.5])
def test_a_farkasnet_has_no_dead_point_at_any_multiplier(multiplier):
    model = create_model(
        "farkasnet18", blocks=[2, 2], widths=[4, 8], in_channels=1, image_size=8, residual_scaling={"multiplier": 0.0},
        aggregation={"name": "mean", "margin": 0.1},
    ).double()  # fmt: skip
    least = with_multipliers(model, multiplier, -5 * normal(16, 1, 8, 8).abs())
    assert len(least) == 10
    assert min(least) > 0.0


@pytest.mark.parametrize(
    ("name", "normalization", "why"),
    [("fixup34", "none", "fixup34 brings its own multipliers"),
     ("resnet18", {"name": "batch", "position": "before"}, "a normalization between a branch and its sum"),
     ("resnet50_imagenet", "layer", "a normalization between a branch and its sum")],
)  # fmt: skip
def test_a_multiplier_without_a_place_is_refused(name, normalization, why):
    with pytest.raises(UserError, match=rf"^residual.multiplier: {why}"):
        create_model(
            name, image_size=16, normalization=normalization, residual_scaling={"multiplier": 0.0}, **SMALL[name]
        )
