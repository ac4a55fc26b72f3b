"""Which activations `convert` knows, each with its cutoff."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from farkas_exp import FarkasLinear, convert
from farkas_exp.layers.completion import FarkasCompletion
from tests.conversion.networks import forms


class Activated(nn.Module):
    """A layer before an activation, which is a module or a function."""

    def __init__(self, activation):
        super().__init__()
        self.layer, self.activation = nn.Linear(3, 4), activation

    def forward(self, features):
        return self.activation(self.layer(features))


@pytest.mark.parametrize(
    ("activation", "cutoff"),
    [
        (nn.ELU(2.0), math.log(0.005)),
        (nn.ELU(0.0), 0.0),
        (nn.Softplus(2.0), math.log(0.01 / 0.99) / 2),
        (nn.LeakyReLU(), 0.0),
        (nn.ReLU6(), 0.0),
        (lambda z: F.relu(input=z), 0.0),
        (lambda z: F.elu(z, 2.0), math.log(0.005)),
        (lambda z: z.relu(), 0.0),
        (lambda z: z.clamp(min=0), 0.0),
        (lambda z: torch.clamp(z, 0, 1), 0.0),
        (lambda z: torch.clamp_min(z, 0), 0.0),
        (nn.Hardtanh(0, 2), 0.0),
        (nn.Threshold(0.5, 0), 0.5),
        (lambda z: F.threshold(z, 0.5, 0), 0.5),
        (nn.CELU(2.0), 2 * math.log(0.01)),
    ],
)
def test_each_activation_has_its_cutoff(activation, cutoff):
    layer = convert(Activated(activation)).network.layer
    assert isinstance(layer, FarkasLinear)
    assert layer.rule.cutoff == pytest.approx(cutoff)


@pytest.mark.parametrize("activation", [nn.CELU(-1.0), nn.Softplus(-1.0), nn.Softplus(0.0)])
def test_an_option_that_turns_an_activation_round_leaves_it_alone(activation):
    (place,) = convert(Activated(activation)).places
    assert place.form == "left alone"
    assert place.why in ("its alpha is -1.0", "its beta is -1.0", "its beta is 0.0")


@torch.no_grad()
@pytest.mark.parametrize(
    ("activation", "form"),
    [
        (nn.ReLU(inplace=True), "Farkas layer"),
        (lambda z: F.elu(z, 1.0, True), "Farkas layer"),
        (nn.ReLU(), "completion"),
        (lambda z: F.elu(z, 1.0), "completion"),
    ],
)
def test_a_later_use_of_what_was_overwritten_sees_the_activation(activation, form):
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.activation = nn.Linear(4, 5), nn.Linear(5, 5), activation

        def forward(self, relu):
            first = self.first(relu)
            return self.last(self.activation(first)) + first

    net = PreActivation()
    conversion = convert(net, margin=0.1)
    network, features = conversion.network, torch.randn(3, 4)
    assert forms(conversion) == [form]
    if form == "Farkas layer":
        net.first.weight[-1], net.first.bias[-1] = (values[-1] for values in network.first.augmented())
        expected = net(features)
    else:
        (completion,) = (module for module in network.modules() if isinstance(module, FarkasCompletion))
        expected = net.last(activation(completion(net.first(features)))) + net.first(features)
    torch.testing.assert_close(network(features), expected)


@pytest.mark.parametrize(
    ("activation", "why"),
    [
        (nn.Hardtanh(), "flat on both sides"),
        (lambda z: F.hardtanh(z, -2, 0), "flat on both sides"),
        (torch.rrelu, "no cutoff is known for it"),
        (F.logsigmoid, "no cutoff is known for it"),
        (lambda z: z.clamp(max=1), None),
        (lambda z: z.clamp(1e-6), None),
    ],
)
def test_what_has_no_cutoff_is_left_alone(activation, why):
    assert [place.why for place in convert(Activated(activation)).places] == [why] * (why is not None)
