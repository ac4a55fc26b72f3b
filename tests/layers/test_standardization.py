"""Weight standardization and its scaled form, in every kind of convolution, and what they leave of the guarantee."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.config import parse
from farkas_exp.config.schema import OptimizerConfig
from farkas_exp.initialization.apply import initialize
from farkas_exp.kernels import accelerate
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.certificate import certify
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.residual import FarkasResidualConv2d
from farkas_exp.layers.standardization import (
    EPS,
    Standardizable,
    scale_layers,
    standardize,
    standardize_layers,
    variance_gain,
)
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import execution_mode
from farkas_exp.models.create import create_model
from farkas_exp.registry import NETWORKS
from farkas_exp.training.optimizer import build_optimizer
from tests.configs import config
from tests.networks import normal

RELU_GAIN = math.sqrt(2 * math.pi / (math.pi - 1))


def test_filters_have_mean_0_and_the_deviation_that_is_asked_for():
    weight, gain = 5 + 3 * normal(4, 3, 2, 2), normal(4, seed=1)
    plain, scaled = standardize(weight).flatten(1), standardize(weight, gain, 0.25).flatten(1)
    for rows, std in ((plain, torch.ones(4)), (scaled, 0.25 * gain.abs())):
        torch.testing.assert_close(rows.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(rows.std(1, correction=0), std.double(), rtol=1e-5, atol=0)
    reference = F.batch_norm(weight.flatten(1)[None], None, None, 0.25 * gain, training=True, eps=EPS)  # as timm has it
    torch.testing.assert_close(scaled, reference[0], rtol=0, atol=1e-12)


def test_a_standardized_convolution_and_its_gradients_are_those_of_its_formula():
    layer = nn.Conv2d(2, 3, (3, 1))
    scale_layers(nn.Sequential(layer), Activation("relu"))
    layer.double()
    with torch.no_grad():
        layer.gain.copy_(normal(3))  # type: ignore[union-attr]
    images, parameters = normal(2, 2, 5, 4), [layer.weight, layer.gain, layer.bias]
    weight, gain, bias = (parameter.detach().clone().requires_grad_() for parameter in parameters)  # type: ignore[union-attr]
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    standard = centred / (centred.square().mean((1, 2, 3), keepdim=True) + EPS).sqrt()
    expected = F.conv2d(images, gain.view(3, 1, 1, 1) * standard / math.sqrt(2 * 3), bias)
    output = layer(images)
    torch.testing.assert_close(output, expected)
    found = torch.autograd.grad(output.square().sum(), parameters)  # type: ignore[arg-type]
    for mine, theirs in zip(found, torch.autograd.grad(expected.square().sum(), (weight, gain, bias)), strict=True):
        torch.testing.assert_close(mine, theirs)
        assert mine.abs().max() > 1e-3


def test_the_scaled_layer_is_timms():
    layers = pytest.importorskip("timm.layers")
    ours, images = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)), torch.rand(2, 3, 6, 6)
    scale_layers(ours, Activation("relu"))
    for layer, gamma in zip(ours, (1.0, RELU_GAIN), strict=True):  # images have not been activated
        theirs = layers.ScaledStdConv2d(3, layer.out_channels, 3, padding=1, gamma=gamma, eps=EPS)
        theirs.load_state_dict({key: layer.state_dict()[key] for key in ("weight", "bias")}, strict=False)
        torch.testing.assert_close(layer(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "gamma"),
    [("relu", RELU_GAIN), ("elu", 1.2716004848480225), ("selu", 1.0008515119552612), ("softplus", 1.9203323125839233),
     ("leaky_relu", 1.70590341091156)],
)  # fmt: skip
def test_the_gains_are_those_of_the_papers_code(name, gamma):
    assert variance_gain(Activation(name)) == pytest.approx(gamma, rel=1e-9 if name == "relu" else 2e-3)  # drawn, there


def test_a_scaled_convolution_keeps_the_variance_of_activated_maps():
    net = nn.Sequential(nn.Conv2d(200, 300, 1, bias=False), nn.ReLU(), nn.Conv2d(300, 300, 1, bias=False))
    scale_layers(net, Activation("relu"))
    images = normal(100, 200, 2, 2).float()
    assert net[0](images).var().item() == pytest.approx(1.0, rel=0.05)  # of images, which have not been activated
    assert net(images).var().item() == pytest.approx(1.0, rel=0.05)


def small(name: str, **options: Any) -> nn.Module:
    own = {"blocks": (1, 1), "widths": (8, 12), "depth": 2, "width": 8}
    given = {key: value for key, value in own.items() if key in NETWORKS[name].options} | options
    torch.manual_seed(0)
    return create_model(name, in_channels=1, image_size=16, **given).eval()


def by_hand(weights: dict[str, Tensor], images: Tensor, aggregation: str | None, scaled: bool, groups: int) -> Tensor:
    """The logits of two stages of one block, by plain operations: Algorithm 2 if there is an aggregation."""

    def norm(maps: Tensor) -> Tensor:  # each group of at most ceil(C / groups) channels, the larger ones first
        sizes = [len(part) for part in torch.arange(maps.shape[1]).tensor_split(groups)]
        parts = maps.split(sizes, 1)
        means = [part.mean((1, 2, 3), keepdim=True) for part in parts]
        variances = [
            (part - mean).square().mean((1, 2, 3), keepdim=True) for part, mean in zip(parts, means, strict=True)
        ]
        return torch.cat([(p - m) / (v + 1e-5).sqrt() for p, m, v in zip(parts, means, variances, strict=True)], 1)

    def unit(name: str, maps: Tensor, shortcut: Tensor | None = None) -> Tensor:
        weight, bias = (weights[f"{name}.layer.{part}"] for part in ("weight", "bias"))
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (centred.square().mean((1, 2, 3), keepdim=True) + EPS).sqrt()
        if scaled:
            gain, gamma = weights[f"{name}.layer.gain"], 1 if name == "stem" else RELU_GAIN
            weight = gain.view(-1, 1, 1, 1) * gamma * weight / math.sqrt(weight[0].numel())
        if aggregation:
            each = 1 / len(weight) if aggregation == "mean" else 1.0
            weight = torch.cat((weight, -each * weight.sum(0, keepdim=True)))
            bias = torch.cat((bias[:-1], torch.maximum(-each * bias[:-1].sum(), bias[-1])[None]))
            if shortcut is not None:
                shortcut = torch.cat((shortcut, -each * shortcut.sum(1, keepdim=True)), 1)
        maps = F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)
        return norm((maps if shortcut is None else maps + shortcut).clamp(min=0))

    maps = unit("stem", images)
    maps = unit("stages.0.0.last", unit("stages.0.0.first", maps), maps)
    maps = F.avg_pool2d(unit("stages.1.0.project", maps), 2)
    maps = unit("stages.1.1.last", unit("stages.1.1.first", maps), maps)
    return F.linear(maps.mean((2, 3)), weights["classifier.weight"], weights["classifier.bias"])


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("choice", ["standardized", "scaled"])
@pytest.mark.parametrize("aggregation", [None, "sum", "mean"])
def test_a_whole_network_with_group_norm_and_its_gradients_are_those_of_their_formulas(aggregation, choice, kernels):
    farkas = {"aggregation": aggregation} if aggregation else {}
    norm = {"name": "group", "groups": 4}
    model = small("farkasnet18" if farkas else "resnet18", widths=(6, 9), weight=choice, normalization=norm, **farkas)
    model = (accelerate(model, torch.device("cpu")) if kernels else model).double()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.add_(0.3 * normal(*parameter.shape, seed=seed))
    images, labels = normal(5, 1, 16, 16), torch.arange(5)
    weights = {name: each.detach().clone().requires_grad_() for name, each in model.named_parameters()}
    expected = by_hand(weights, images, aggregation, choice == "scaled", 4)
    logits = model(images)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-7)
    for each in (logits, expected):
        F.cross_entropy(each, labels).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].spatial])
def test_every_convolution_of_every_network_forgets_the_mean_and_the_scale_of_its_filters(name):
    model = accelerate(small(name, weight="scaled"), torch.device("cpu")).double()
    convolutions = [module for module in model.modules() if isinstance(module, (nn.Conv2d, FarkasConv2d))]
    assert all(isinstance(layer, Standardizable) and layer.gain is not None for layer in convolutions)
    with torch.no_grad():
        for layer in convolutions:
            layer.weight.copy_(100 * normal(*layer.weight.shape))  # so large that eps does not count
        images = normal(2, 1, 16, 16)
        before = model(images)
        for layer in convolutions:
            layer.weight.mul_(7.0).add_(0.5)
        torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.parametrize("standardization", [standardize_layers, scale_layers])
@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_a_farkas_layer_keeps_its_guarantee_also_at_the_worst_input(aggregation, standardization):
    options = {"padding": 1, "aggregation": aggregation, "margin": 0.1, "dtype": torch.float64}
    net = nn.ModuleList([FarkasConv2d(3, 5, 3, **options), FarkasResidualConv2d(3, 5, 3, **options)])
    standardization(net, Activation("relu"))
    layer, last = net
    with torch.no_grad():
        for each in net:
            each.weight.mul_(10).add_(3)
            each.bias[-1] = -9.0  # the bound wins
    assert certify(layer, 9 * normal(50, 3, 4, 4)).margin >= 0.1 * float(layer.coefficients()[1]) - 1e-9
    certificate = certify(last, normal(2, 3, 4, 4), normal(2, 5, 4, 4, seed=1))
    bias = last.augmented()[1].detach()
    worst = (certificate.lambda_b - bias[:-1])[None, :, None, None]
    assert certify(last, torch.zeros(1, 3, 1, 1).double(), worst).margin == pytest.approx(
        certificate.lambda_b, abs=1e-9
    )
    weight = layer.augmented()[0].detach().flatten(1)
    assert not torch.allclose(weight[-1].std(correction=0), weight[0].std(correction=0))  # the last row is not
    torch.testing.assert_close(weight[-1], -getattr(weight[:-1], aggregation)(0))


def test_gains_are_trained_and_not_decayed_and_only_the_scaled_form_has_them():
    model = small("farkasnet18", weight="scaled")
    gains = {parameter for key, parameter in model.named_parameters() if key.endswith("gain")}
    (undecayed,) = [
        set(group["params"])
        for group in build_optimizer(model, OptimizerConfig(), 0.1).param_groups
        if not group["weight_decay"]
    ]
    assert len(gains) == 6
    assert gains <= undecayed
    model(torch.rand(2, 1, 16, 16)).sum().backward()
    assert all(gain.grad is not None for gain in gains)
    assert not [key for key, _ in small("resnet18", weight="standardized").named_parameters() if key.endswith("gain")]


def test_what_a_standardized_weight_would_undo_is_refused():
    with pytest.raises(UserError, match=r"^weight.name: scaled does nothing here; it needs a network of convolutions"):
        parse({"model": {"name": "mlp"}, "lr": {"value": 0.1}, "dataset": {"name": "digits"},
               "weight": {"name": "scaled"}})  # fmt: skip
    with pytest.raises(UserError, match=r"^init: a standardized weight undoes any scale of the branch"):
        initialize(small("resnet18", weight="standardized"), "zero_last")
    with pytest.raises(UserError, match=r"^init.name: FixUp's own scales weights, and a standardized weight undoes it"):
        initialize(small("fixup34", weight="scaled"), "pytorch")
    for name in ("lsuv", "match_farkas", "residual_xavier", "minus_identity", "identity_small"):
        with pytest.raises(UserError, match=rf"^init.name: {name} scales weights, and a standardized weight undoes it"):
            initialize(small("resnet18", weight="scaled"), name, images=torch.rand(2, 3, 16, 16))
    with pytest.raises(UserError, match=r"^weight.name: the filters of stages.0.0.last.layer have a single entry"):
        create_model("resnet50", blocks=(1,), widths=(4,), weight="scaled", image_size=8, in_channels=1)
    projected = config(weight={"name": "scaled"}, callback={"name": "rank_min", "threshold": 0.1})
    with pytest.raises(UserError, match=r"^callback.name: rank_min cuts singular values that weight=scaled changes"):
        execution_mode(projected, "none")
