"""What `certify` measures of a layer and a network, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from farkas_exp.layers.certificate import certify
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLinear
from farkas_exp.machine.errors import UserError
from tests.layers.made_layers import conv, linear, scatter_parameters
from tests.networks import normal


def test_certify_gives_the_attained_margin_over_samples_and_positions():
    layer = scatter_parameters(conv("mean", {"padding": 1}), 1)
    images = normal(3, 3, 5, 5)
    z = layer(images).tolist()
    expected = min(max(z[n][c][i][j] for c in range(5)) for n in range(3) for i in range(5) for j in range(5))
    assert certify(layer, images).margin == pytest.approx(expected, abs=1e-15)
    flat = scatter_parameters(linear("sum"), 2)
    x = normal(20, 6)
    assert certify(flat, x).margin == pytest.approx(min(max(row) for row in flat(x).tolist()), abs=1e-15)


def test_weights_that_are_not_finite_guarantee_nothing():
    layer = FarkasLinear(3, 4, margin=0.5)
    assert certify(layer, torch.ones(2, 3)).strict
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    found = certify(layer, torch.ones(2, 3))
    assert math.isnan(found.lambda_b)
    assert not found.strict


def test_certify_refuses_a_shortcut_for_a_layer_without_one():
    with pytest.raises(ValueError, match="without one"):
        certify(conv("sum", {}), normal(1, 3, 5, 5), normal(1, 3, 5, 5))


def test_the_features_of_a_linear_layer_are_its_last_dimension_in_a_certificate_too():
    layer = scatter_parameters(linear("sum"), 0)
    x = normal(3, 7, 6)
    assert certify(layer, x).margin == pytest.approx(certify(layer, x.reshape(21, 6)).margin)


def test_a_single_image_is_certified_like_a_batch_of_one():
    torch.manual_seed(0)
    layer = FarkasConv2d(3, 5, 3)
    image = torch.randn(3, 8, 8)
    assert certify(layer, image).margin == pytest.approx(certify(layer, image[None]).margin)


def test_an_empty_input_certifies_nothing():
    layer = FarkasLinear(4, 6)
    for network in (layer, torch.nn.Sequential(layer)):
        with pytest.raises(ValueError, match="an empty input certifies nothing"):
            certify(network, torch.rand(0, 4))


@pytest.mark.parametrize(
    ("input", "got"), [(np.ones((2, 4), np.float32), "a ndarray"), (torch.ones(2, 4).int(), "torch.int32")]
)
def test_what_is_no_tensor_of_floating_point_numbers_is_refused_in_one_line(input, got):
    with pytest.raises(UserError, match=f"^input: expected a torch.Tensor of floating-point numbers, got {got}$"):
        certify(FarkasLinear(4, 6), input)


def test_a_network_may_take_whole_numbers():
    words = torch.nn.Sequential(torch.nn.Embedding(5, 4), FarkasLinear(4, 6, margin=0.5))
    assert certify(words, torch.tensor([0, 3])).strict


class Twice(torch.nn.Module):
    """Calls its layer with what it is given, and then with `other` of it."""

    def __init__(self, other) -> None:
        super().__init__()
        self.layer, self.other = FarkasLinear(4, 3, margin=0.1), other

    def forward(self, points):
        return self.layer(points), self.layer(self.other(points))


def test_a_layer_that_is_called_again_has_the_least_margin_of_all_calls():
    points = normal(5, 4).float()
    net = Twice(lambda points: points * 2)
    least = certify(net.layer, torch.cat((points, 2 * points))).margin
    assert certify(net, points)["layer"].margin == pytest.approx(least)
    assert math.isnan(certify(Twice(lambda points: points * math.nan), points)["layer"].margin)
    for nothing in (Twice(lambda points: points[:0]), Twice(lambda points: points)):
        assert certify(nothing, points)["layer"].margin == pytest.approx(certify(nothing.layer, points).margin)


def test_a_network_is_certified_in_its_own_precision():
    net, points = Twice(lambda points: points).double(), normal(5, 4)
    assert certify(net, points)["layer"].margin == certify(net.layer, points).margin
