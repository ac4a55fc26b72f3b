"""Residual scaling: alpha (x + beta y) in every residual network, and what it leaves of the Farkas guarantee."""

from typing import Any

import pytest
import torch

from farkas_exp.config import parse
from farkas_exp.data.base import Batching
from farkas_exp.initialization.apply import initialize
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.certificate import certify
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.residual import FarkasResidualConv2d, ResidualBlock, ResidualConv2d, Scaling
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.activity import measure_activity
from farkas_exp.models.create import create_model
from tests.configs import config
from tests.layers.made_layers import residual
from tests.networks import SMALL, normal

SCALINGS = [Scaling(0.7, 0.3), Scaling(2.0, 3.0), Scaling(0.1, 0.2), Scaling(1.0, 5.0)]
CUTOFFS = [0.0, 0.5, -1.0]


def farkas_layer(aggregation: str, scaling: Scaling, **options: float) -> FarkasResidualConv2d:
    layer = residual(aggregation, **options)
    layer.set_scaling(scaling)
    return layer


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_sum_of_a_plain_layer_is_alpha_shortcut_plus_beta_branch(scaling: Scaling) -> None:
    layer = ResidualConv2d(3, 5, 3, padding=1).double()
    hidden, x = normal(2, 3, 4, 4, seed=1), normal(2, 5, 4, 4, seed=2)
    layer.set_scaling(scaling)
    torch.testing.assert_close(layer(hidden, x), scaling.alpha * (x + scaling.beta * layer.branch(hidden)))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_second_scaling_takes_the_place_of_the_first(scaling: Scaling) -> None:
    layer = farkas_layer("mean", Scaling(0.3, 7.0), cutoff=0.5, margin=0.25)
    layer.set_scaling(scaling)
    rule = farkas_layer("mean", scaling, cutoff=0.5, margin=0.25).rule
    assert (layer.rule.cutoff, layer.rule.margin) == pytest.approx((rule.cutoff, rule.margin))
    assert layer.scaling == scaling


@pytest.mark.parametrize("path", ["plain", "fused"])
@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_aggregated_component_of_a_farkas_layer_covers_the_scaled_sum(
    scaling: Scaling, aggregation: str, path: str
) -> None:
    layer = farkas_layer(aggregation, scaling)
    hidden, x = normal(2, 3, 4, 4, seed=1), normal(2, 5, 4, 4, seed=2)
    kernels, bias = layer.weight, layer.bias
    y = torch.nn.functional.conv2d(hidden, kernels, padding=1)
    agg = torch.sum if aggregation == "sum" else torch.mean
    last = torch.max(-agg(bias[:-1], dim=0), bias[-1])
    full = torch.cat((x + scaling.beta * y, -agg(x + scaling.beta * y, dim=1, keepdim=True)), 1)
    b = torch.cat((bias[:-1], last[None]))[None, :, None, None]
    expected = torch.relu(scaling.alpha * (full + scaling.beta * b))
    if path == "plain":
        with plain_path():
            ours = layer.activate(hidden, x, Activation("relu"))
    else:
        ours = layer.activate(hidden, x, Activation("relu"))
    torch.testing.assert_close(ours, expected)
    gradients = torch.autograd.grad(ours.square().sum(), (kernels, bias))
    for mine, literal in zip(gradients, torch.autograd.grad(expected.square().sum(), (kernels, bias)), strict=True):
        torch.testing.assert_close(mine, literal)


@pytest.mark.parametrize("margin", [0.0, 0.4])
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_at_least_one_unit_is_active_after_scaling_also_at_the_worst_input(
    scaling: Scaling, aggregation: str, cutoff: float, margin: float
) -> None:
    layer = farkas_layer(aggregation, scaling, cutoff=cutoff, margin=margin)
    with torch.no_grad():
        layer.bias[-1] = -9.0  # the bound wins
    random = certify(layer, normal(50, 3, 4, 4, seed=1), 3 * normal(50, 5, 4, 4, seed=2))
    assert random.margin >= random.lambda_b - 1e-9
    # The input at which all pre-activations are equal: lambda^T z is the same for all inputs, so none is worse.
    level = random.lambda_b
    bias = layer.augmented()[1].detach()
    x = ((level - scaling.of_branch * bias[:-1]) / scaling.alpha)[None, :, None, None]
    worst = certify(layer, torch.zeros(1, 3, 1, 1, dtype=torch.float64), x)
    assert worst.margin == pytest.approx(level, abs=1e-9)
    assert worst.cutoff == pytest.approx(cutoff)
    _, lambda_m = layer.coefficients()
    assert worst.margin >= cutoff + float(lambda_m) * margin - 1e-9


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, -0.5), (float("inf"), 1.0)])
def test_factors_that_lose_the_guarantee_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match=r"^residual\.(alpha|beta): .* must be positive"):
        Scaling(alpha, beta)
    with pytest.raises(UserError, match=r"^residual\.(alpha|beta): "):
        parse({"model": {"name": "resnet18"}, "lr": {"value": 0.1}, "dataset": {"name": "digits"},
               "residual": {"alpha": alpha, "beta": beta}})  # fmt: skip


@pytest.mark.parametrize("name", ["densenet40", "mlp", "farkas_mlp"])
def test_a_network_without_branches_has_nothing_to_scale(name: str) -> None:
    with pytest.raises(UserError, match=f"^residual: {name} has no residual branches"):
        create_model(name, image_size=8, residual_scaling={"alpha": 0.5})


@pytest.mark.parametrize("name", SMALL)
def test_every_block_of_every_residual_network_scales_its_branch_and_its_sum(name: str) -> None:
    model = create_model(name, in_channels=1, image_size=16, **SMALL[name]).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():  # FixUp's branches start at zero
            parameter.add_(0.1 * normal(*parameter.shape))
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    seen: dict[ResidualBlock, torch.Tensor] = {}
    for block in blocks:
        block.register_forward_pre_hook(lambda block, inputs: (seen.setdefault(block, inputs[0].clone()), None)[1])
    images = normal(2, 1, 16, 16).abs()
    model(images)
    assert len(seen) == len(blocks) > 0
    for block, input in seen.items():
        plain = block(input.clone())
        block.set_scaling(Scaling(1.0, 1e-9))
        shortcut = block(input.clone())
        block.set_scaling(Scaling(0.5, 1e-9))
        half = block(input.clone())
        assert not torch.allclose(plain, shortcut)
        torch.testing.assert_close(half, 0.5 * shortcut, atol=1e-7, rtol=1e-6)


def test_beta_falls_with_the_depth() -> None:
    model = create_model(
        "farkasnet34", blocks=[2, 3], widths=[4, 8], residual_scaling={"beta": 2.0, "depth_exponent": -0.5}
    )
    ends = [block.branch_end()[0] for block in model.modules() if isinstance(block, ResidualBlock)]
    assert len(ends) == 5
    for layer in ends:
        assert isinstance(layer, FarkasResidualConv2d)
        assert (layer.scaling.alpha, layer.scaling.beta) == (1.0, pytest.approx(2.0 / 5**0.5))


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_a_scaled_farkasnet_has_no_dead_point_before_and_after_steps(aggregation: str) -> None:
    model = create_model(
        "farkasnet18", blocks=[2, 2], widths=[4, 8], in_channels=1, image_size=8,
        residual_scaling={"alpha": 0.5**0.5, "depth_exponent": -0.5}, aggregation={"name": aggregation, "margin": 0.1},
    ).double()  # fmt: skip
    initialize(model, "kaiming", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    images, labels = normal(32, 1, 8, 8), torch.arange(32) % 10
    for _ in range(3):
        assert max(layer.dead_points for layer in measure_activity(model, images)) == 0
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def test_a_run_is_built_as_its_configuration_says(tmp_path) -> None:
    from farkas_exp.data.build import build_data
    from farkas_exp.training.building import build_model

    made = config(
        tmp_path, residual={"alpha": 0.5, "beta": 0.4, "depth_exponent": -0.5}, normalization={"name": "none"}
    )
    data = build_data(made.dataset, made.augmentation, Batching(40, 0))
    model = build_model(made, data, torch.device("cpu"))
    (first, *_) = [block for block in model.modules() if isinstance(block, ResidualBlock)]
    layer, _ = first.branch_end()
    assert isinstance(layer, FarkasResidualConv2d)
    assert (layer.scaling.alpha, layer.scaling.beta) == (0.5, pytest.approx(0.4 / 2**0.5))


@pytest.mark.parametrize("name", ["resnet18", "farkasnet18", "rect_conv"])
def test_without_shortcuts_a_network_is_a_chain_of_its_layers(name: str) -> None:
    """No block passes its input on: with a branch of zeros, all images look alike."""
    sizes: dict[str, Any] = {"blocks": (2,), "widths": (4,)}
    if "rect" in name:
        sizes = {"depth": 3, "width": 4, "residual": True}
    images = torch.rand(3, 3, 8, 8)
    for skip in (True, False):
        torch.manual_seed(0)
        model = create_model(name, 10, residual_scaling={"skip": skip}, **sizes)
        blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
        with torch.no_grad():
            for parameter in blocks[-1].branch_end()[0].parameters():
                parameter.zero_()
        logits = model(images)
        assert torch.allclose(logits, logits[:1].expand_as(logits)) == (not skip)
