"""`convert` on the networks of torchvision, of timm and of the paper: certified, trained, and recovered."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from farkas_exp import certify, convert, create_model
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.paths import plain_path
from tests.conversion.networks import IMAGES, forms


def largest(network, name, images):
    """The largest output of a layer at each sample and position, with its graph."""
    seen = []
    handle = network.get_submodule(name).register_forward_hook(lambda layer, inputs, outputs: seen.append(outputs))
    try:
        with plain_path():
            network.eval()(images)
    finally:
        handle.remove()
    return seen[0].amax(1)


def descended(network, name, images, steps=6):
    """Images from a gradient descent on the largest pre-activations of a layer; any input is allowed."""
    images = images.clone().requires_grad_()
    for _ in range(steps):
        (slope,) = torch.autograd.grad(largest(network, name, images).mean(), images)
        images = (images - slope * images.norm() / slope.norm().clamp(min=1e-30)).detach().requires_grad_()
    return images.detach()


def assert_certified(network, images):
    found = certify(network, images)
    assert found.strict
    assert found.active
    for name, each in found.items():
        assert each.margin >= each.lambda_b - 1e-9, name


def test_a_descent_finds_a_dead_point_of_a_plain_layer_and_none_of_a_farkas_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()).double()
    converted = convert(net, margin=0.1).network
    for name in ("0", "2"):
        images = descended(net, name, IMAGES.double())
        assert largest(net, name, images).min() < 0
        assert_certified(converted, images)
        assert_certified(converted, descended(converted, name, IMAGES.double()))


def test_the_branches_of_googlenet_are_converted_though_it_is_another_network_in_training():
    conversion = convert(torchvision.models.googlenet(num_classes=10, init_weights=False), margin=0.1)
    assert Counter(forms(conversion)) == {"Farkas layer": 61}
    outputs = conversion.network.train()(torch.rand(2, 3, 64, 64))
    assert [output.shape for output in outputs] == [(2, 10)] * 3


NETWORKS = {
    "resnet18": {"Farkas layer": 9, "completion": 8},
    "vgg11": {"Farkas layer": 10},
    "mobilenet_v2": {"Farkas layer": 18, "completion": 17},
    "densenet121": {"Farkas layer": 59, "completion": 62},
}
QUICK = [("resnet18", "after"), ("resnet18", "remove"), ("mobilenet_v2", "remove"), ("densenet121", "after")]


@pytest.mark.parametrize(
    ("name", "normalization"),
    [
        pytest.param(name, normalization, marks=[] if (name, normalization) in QUICK else pytest.mark.slow)
        for name in NETWORKS
        for normalization in ("after", "remove")
    ],
)
def test_torchvisions_networks_are_converted_certified_and_train(name, normalization):
    torch.manual_seed(0)
    conversion = convert(getattr(torchvision.models, name)(num_classes=10), margin=0.1, normalization=normalization)
    assert Counter(forms(conversion)) == NETWORKS[name]
    network, images, labels = conversion.network, torch.rand(4, 3, 32, 32), torch.arange(4)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):
        loss = F.cross_entropy(network.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert all(layer.weight.grad.any() for layer in network.modules() if isinstance(layer, FarkasLayer))
    network.double()
    assert len(certify(network, images.double())) == len(conversion.places)
    assert_certified(network, images.double())
    if normalization == "after":
        names = [name for name, layer in network.named_modules() if isinstance(layer, (FarkasLayer, FarkasCompletion))]
        for attacked in (names[0], names[-1]):
            assert_certified(network, descended(network, attacked, images[:1].double(), steps=2))


def test_the_farkas_networks_are_those_of_the_plain_ones_where_both_have_the_same_form():
    for plain, farkas in (("mlp", "farkas_mlp"), ("rect_conv", "farkas_rect_conv")):
        net = create_model(plain, depth=3, width=6, image_size=8, in_channels=1)
        twin = create_model(farkas, depth=3, width=6, image_size=8, in_channels=1)
        converted = convert(net).network
        twin.load_state_dict(converted.state_dict())
        images = torch.randn(5, 1, 8, 8)
        torch.testing.assert_close(converted(images), twin(images))


def test_the_layers_of_farkasnet34_are_recovered_but_the_ends_of_its_blocks():
    """There the paper's block appends a channel, which the following layers would have to take."""
    conversion = convert(create_model("resnet34", normalization="batch"))
    twin = dict(create_model("farkasnet34", normalization="batch").named_modules())
    for place in conversion.places:
        assert place.form == ("completion" if "last" in place.before else "Farkas layer"), place
        if place.form == "Farkas layer":
            made, theirs = conversion.network.get_submodule(place.before), twin[place.before]
            assert type(made) is type(theirs)
            assert made.rule == theirs.rule
            assert made.padding == (theirs.padding, theirs.padding)
    assert len(conversion.places) == 33 == len([name for name in twin if name.endswith("activation")])


def test_networks_of_timm():
    timm = pytest.importorskip("timm")
    conversion = convert(timm.create_model("resnet18", num_classes=10), margin=0.1)
    assert Counter(forms(conversion)) == NETWORKS["resnet18"]
    assert certify(conversion.network, torch.rand(2, 3, 32, 32)).strict
    assert set(forms(convert(timm.create_model("convnext_atto", num_classes=10)))) == {"left alone"}
    mobile = convert(timm.create_model("mobilenetv2_035", num_classes=10), margin=0.1)
    assert Counter(forms(mobile)) == NETWORKS["mobilenet_v2"]
    assert certify(mobile.network, torch.rand(2, 3, 64, 64)).strict
