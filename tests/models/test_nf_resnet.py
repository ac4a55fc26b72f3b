"""NF-ResNet against its formulas, its expected variances against those of random networks, and its Farkas form."""

import math

import pytest
import torch
import torch.nn.functional as F

from farkas_exp.initialization.apply import initialize
from farkas_exp.layers.standardization import standardize
from farkas_exp.models.create import create_model
from tests.composing import composed
from tests.networks import normal, with_multipliers

NF = {"beta": 0.2, "multiplier": 0.0}
GAMMA = math.sqrt(2 * math.pi / (math.pi - 1))


def net_of(name="nf_resnet34", **options):
    given = {"in_channels": 2, "image_size": 8, "weight": "scaled", "blocks": [2, 1], "widths": [4, 6]}
    torch.manual_seed(0)
    return create_model(name, **given | options).double()


def test_the_network_is_its_formulas():
    beta, net = 0.3, net_of(residual_scaling={"beta": 0.3, "multiplier": 0.0})
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.add_(0.3 * normal(parameter.numel(), seed=number).view_as(parameter))
    own = {key: value.detach() for key, value in net.named_parameters()}

    def conv(x, place, gamma=GAMMA):
        weight, gain = own[f"{place}.weight"], own[f"{place}.gain"]
        scaled = standardize(weight, gain, gamma / math.sqrt(weight[0].numel()))
        return F.conv2d(x, scaled, own[f"{place}.bias"], padding=weight.shape[-1] // 2)

    def block(x, place, variance):
        hidden = conv((x / math.sqrt(variance)).relu(), f"{place}.conv1")
        return x + beta * own[f"{place}.conv2.multiplier"] * conv(hidden.relu(), f"{place}.conv2")

    images = normal(3, 2, 8, 8)
    x = conv(images, "stem", gamma=1.0)
    x = block(block(x, "layers.0", 1.0), "layers.1", 1 + beta**2)
    x = F.avg_pool2d(conv((x / math.sqrt(1 + 2 * beta**2)).relu(), "layers.2.project"), 2)
    x = block(x, "layers.3", 1.0)
    expected = F.linear(x.relu().mean((2, 3)), own["classifier.weight"], own["classifier.bias"])
    torch.testing.assert_close(net(images), expected, rtol=1e-6, atol=1e-9)


def test_the_variance_of_a_random_network_is_the_expected_one():
    net = net_of(
        in_channels=3, image_size=16, blocks=[4], widths=[96], residual_scaling={"beta": 0.8, "multiplier": 1.0}
    )
    initialize(net, "kaiming", seed=0)
    expected, seen = 1.0, []
    for layer in net.layers:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach().clone()))
    net(normal(16, 3, 16, 16))
    for output in seen:
        expected += 0.8**2
        inside = output[..., 6:10, 6:10]  # at the border, the padding counts
        assert float(inside.var()) == pytest.approx(expected, rel=0.1)
    assert expected == pytest.approx(3.56)


def test_it_starts_as_its_shortcuts():
    net, images = net_of(residual_scaling=NF), normal(2, 2, 8, 8)
    x = net.layers[2](net.stem(images), 1 + 2 * 0.2**2)
    torch.testing.assert_close(net(images), net.classifier(x.relu().mean((2, 3))))


@pytest.mark.parametrize("multiplier", [0.0, 1.0, -3.0])
@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_the_farkas_network_has_no_dead_point(aggregation, multiplier):
    net = net_of(
        "nf_farkasnet34", residual_scaling={"beta": 0.2, "multiplier": 0.0},
        aggregation={"name": aggregation, "margin": 0.01},
    )  # fmt: skip
    least = with_multipliers(net, multiplier, -7 * normal(16, 2, 8, 8).abs())
    assert len(least) == 8
    assert min(least) > 0


@pytest.mark.parametrize("name", ["nf_resnet34", "nf_farkasnet34"])
def test_the_choice_brings_all_its_parts(name):
    config = composed(f"model={name}", "dataset=digits")
    assert (config.weight.name, config.residual.beta, config.residual.multiplier) == ("scaled", 0.2, 0.0)
