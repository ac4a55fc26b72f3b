"""`convert` follows the mode of a network, and goes into the parts of what cannot be traced."""

import copy
import math
import re
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from farkas_exp import FarkasLinear, certify, convert
from tests.conversion.networks import IMAGES, conv_norm, forms

OF_SIZE = "its forward makes a tensor of what is known only when it is called: "
MADE = {
    "a constant": (lambda net, x: net.scale * torch.ones(3), "its forward makes a tensor, which a graph would keep as"),
    "of a buffer": (lambda net, x: 2 * net.scale * x, "its forward makes a tensor, which a graph would keep as"),
    "of a size": (lambda net, x: x + torch.zeros(x.shape[0], 3), f"{OF_SIZE}.*torch.zeros"),
    "a size": (lambda net, x: x * torch.tensor(x.shape[0]), f"{OF_SIZE}.*torch.tensor"),
    "with a call": (lambda net, x: x + x.new_zeros(x.shape[0], 3), None),
    "of weights": (lambda net, x: net.weight.exp() * x, None),
    "a buffer": (lambda net, x: net.scale * x, None),
}


@pytest.mark.parametrize("made", MADE)
def test_a_tensor_that_a_forward_makes_is_the_reason_why_it_is_not_traced(made):
    class Making(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
            self.weight = nn.Parameter(torch.zeros(3))
            self.register_buffer("scale", torch.ones(3))

        def forward(self, features):
            return self.layers(features) * MADE[made][0](self, features)

    conversion, why = convert(Making()), MADE[made][1]
    assert forms(conversion) == ["Farkas layer"]
    assert len(conversion.notes) == bool(why)
    assert all(re.match(f"Making: only its parts, as it cannot be traced: {why}", note) for note in conversion.notes)
    assert not [name for name in vars(conversion.network) if "constant" in name]


def test_functions_follow_the_mode_of_the_converted_network():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(50, 50)

        def forward(self, features, scale=1.0, mask=None):
            dropped = F.dropout(F.relu(self.layer(features)), training=self.training)
            return scale * dropped if mask is None else mask * dropped

    features = torch.randn(3, 50)
    for given in (Dropping(), Dropping().eval()):
        network = convert(given, margin=0.1).network
        assert network.training == given.training
        network.eval()
        assert torch.equal(network(features), network(features))
        network.train()
        assert not torch.equal(network(features), network(features))


class Named(nn.Sequential):
    pass


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        relu = nn.ReLU()
        self.body = conv_norm()
        self.named = Named(OrderedDict(a=nn.Linear(2, 3), b=relu, c=nn.Linear(3, 2), d=relu))

    def forward(self, images):
        return self.named(self.body(images) if images.sum() > 0 else self.body(-images))


class OtherInTraining(Untraceable):
    def forward(self, images):
        return (self.body(images), images) if self.training else self.named(self.body(images))


@pytest.mark.parametrize("kind", [Untraceable, OtherInTraining])
def test_a_network_that_cannot_be_traced_has_its_sequences_converted(kind):
    conversion = convert(kind().eval(), margin=0.1)
    assert forms(conversion) == ["Farkas layer"] * 3
    (note,) = conversion.notes
    assert note.startswith(f"{kind.__name__}: only its parts, as it cannot be traced: ")
    network = conversion.network
    assert [type(m).__name__ for m in network.body][:3] == ["FarkasConv2d", "ReLU", "BatchNorm2d"]
    assert [type(m).__name__ for m in network.named] == ["FarkasLinear", "ReLU", "FarkasLinear", "ReLU"]
    assert isinstance(network.named.c, FarkasLinear)
    assert certify(network, IMAGES).strict
    assert not network.training


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.facts = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), ["read by others"]

    def forward(self, images):
        return F.relu(self.norm(self.conv(images)) + images)


class Branching(nn.Module):
    """Cannot be traced, and holds what can: a block twice, blocks in a sequence, one that has a second argument."""

    def __init__(self):
        super().__init__()
        self.block = Residual()
        self.blocks = nn.Sequential(self.block, Residual(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = Masked()

    def forward(self, images):
        images = self.block(images if images.sum() > 0 else -images)
        assert self.block.facts
        for block in self.blocks:
            images = block(images)
        return self.last(images, mask=2)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, images, mask=None):
        return F.relu(self.layer(images)) if mask is None else mask * self.layer(images)


def test_the_parts_of_a_network_that_cannot_be_traced():
    conversion = convert(Branching(), margin=0.1)
    (note,) = conversion.notes
    assert note.startswith("Branching: only its parts, as it cannot be traced: ")
    assert {place.activation: place.form for place in conversion.places} == {
        "block.relu": "completion", "blocks.1.relu": "completion", "blocks.4": "Farkas layer",
    }  # fmt: skip
    network = copy.deepcopy(conversion.network)
    assert network.block is network.blocks[0]
    assert type(network.last) is Masked
    assert certify(network, IMAGES).active


def test_what_cannot_be_traced_in_a_network_is_converted_by_parts():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Branching(), nn.Conv2d(4, 4, 1), nn.ReLU())
    conversion = convert(net, margin=0.1)
    (note,) = conversion.notes
    assert note.startswith("2: only its parts, as it cannot be traced: ")
    assert forms(conversion) == ["Farkas layer"] * 2 + ["completion"] * 2 + ["Farkas layer"]
    assert [place.activation for place in conversion.places][:2] == ["1", "4"]
    assert certify(conversion.network, IMAGES).active


class Sharing(Branching):
    def __init__(self):
        super().__init__()
        shared = nn.Conv2d(3, 3, 1)
        self.first, self.second = (nn.Sequential(shared, nn.ReLU()) for _ in range(2))

    def forward(self, images):
        return self.second(self.first(images if images.sum() > 0 else -images))


@pytest.mark.parametrize("net", [Sharing(), nn.Sequential(Sharing(), nn.Conv2d(3, 3, 1), nn.ReLU())])
def test_a_layer_of_several_parts_stays_one(net):
    conversion = convert(net, margin=0.1)
    whys = [place.why for place in conversion.places if "first" in place.activation or "second" in place.activation]
    assert whys == ["its weight is shared"] * 2
    made = conversion.network if isinstance(net, Sharing) else conversion.network.get_submodule("0")
    assert made.first[0] is made.second[0]
    assert certify(made, IMAGES)["first.completion__1"].active


def test_layers_that_are_not_reached_are_not_active():
    network = convert(OtherInTraining().eval(), margin=0.1).network
    network.forward = network.body.forward
    found = certify(network, IMAGES)
    assert found["body.0"].active
    assert math.isnan(found["named.a"].margin)
    assert not found.active
    with pytest.raises(ValueError, match="no Farkas layer in this network"):
        certify(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2))
