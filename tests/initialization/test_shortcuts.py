"""Initializations that account for shortcuts: kernels that are not square, biases, networks without activations.

Their variances are tried beside the lecture's, in tests/studies/init_lecture.
"""

import math

import pytest
import torch
from torch import nn

from farkas_exp.initialization.apply import initialize
from farkas_exp.initialization.random import weight_layers
from farkas_exp.initialization.shortcuts import branch_layers, gain_of
from farkas_exp.layers.residual import ResidualBlock
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import create_model


def test_the_middle_of_a_kernel_is_that_of_either_side():
    layer = nn.Conv2d(4, 4, (1, 5), padding=(0, 2))
    initialize(layer, "delta_orthogonal", gain=1.0)
    images = torch.randn(2, 4, 3, 7)
    torch.testing.assert_close(layer(images).square().sum(1), images.square().sum(1))
    assert layer.weight[..., [0, 1, 3, 4]].abs().sum() == 0


@pytest.mark.parametrize(("init", "kernel"), [("delta_orthogonal", 3), ("orthogonal", 1)])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_each_group_of_a_convolution_is_orthogonal(init, kernel, groups):
    """Of a depthwise convolution, in which each channel is its own group, every weight is 1 or -1."""
    layer = nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=groups)
    layer.to(memory_format=torch.channels_last)
    initialize(layer, init, gain=1.0)
    images = torch.randn(2, 8, 3, 7)
    torch.testing.assert_close(layer(images).square().sum(1), images.square().sum(1))


def test_where_a_delta_orthogonal_kernel_has_fewer_outputs_its_rows_are_orthonormal():
    layer = nn.Conv2d(6, 3, 3, padding=1)
    initialize(layer, "delta_orthogonal", gain=2.0)
    middle = layer.weight[:, :, 1, 1]
    torch.testing.assert_close(middle @ middle.T, 4 * torch.eye(3))


@pytest.mark.parametrize("init", ["residual_xavier", "minus_identity", "delta_orthogonal"])
def test_all_biases_start_at_zero(init):
    net = create_model("mlp", 3, in_channels=1, image_size=4, depth=3, width=16, residual=True)
    biases = [layer.bias for layer in weight_layers(net)]
    assert all(bias.abs().sum() > 0 for bias in biases)
    initialize(net, init)
    assert all(bias.abs().sum() == 0 for bias in biases)


def test_the_layers_outside_of_branches_are_hes_by_the_fan_in():
    net = create_model("mlp", 40, in_channels=1, image_size=20, depth=3, width=100, residual=True)
    for init in ("residual_xavier", "minus_identity"):
        initialize(net, init)
        *_, classifier = weight_layers(net)
        assert classifier.weight.shape == (40, 100)
        assert float(classifier.weight.detach().std()) == pytest.approx(math.sqrt(2 / 100), rel=0.05)


@pytest.mark.parametrize(("branches", "scale"), [(1, 1.0), (2, 2**-0.5), (9, 1 / 3)])
def test_a_linear_branch_of_residual_xavier_has_its_share_of_the_variance(branches, scale):
    net = create_model("linear_residual", 10, in_channels=1, image_size=16, depth=branches)
    initialize(net, "residual_xavier")
    *layers, classifier = weight_layers(net)
    assert len(layers) == branches
    for layer in layers:
        assert float(layer.weight.detach().std()) == pytest.approx(scale / 16, rel=0.02)
    assert float(classifier.weight.detach().std()) == pytest.approx(1 / 16, rel=0.1)


@pytest.mark.parametrize("layers", [[nn.Linear(4, 3)], [nn.Linear(4, 4), nn.Linear(4, 4)]])
def test_minus_identity_is_for_branches_of_one_square_layer(layers):
    block = ResidualBlock()
    block.layers = nn.Sequential(*layers)
    with pytest.raises(UserError, match=r"^init.name: minus_identity needs residual branches of one square layer"):
        initialize(block, "minus_identity")


def test_the_projection_of_a_shortcut_is_no_layer_of_its_branch():
    net = create_model("resnet50_imagenet", image_size=32, blocks=(1, 1), widths=(8, 16))
    blocks = [block for block in net.modules() if isinstance(block, ResidualBlock)]
    assert all(block.projection() is not None for block in blocks)
    assert [len(branch_layers(block)) for block in blocks] == [3, 3]


def test_only_a_network_with_activations_has_the_gain_of_the_relu():
    assert gain_of(create_model("linear_residual", 3, in_channels=1, image_size=4, depth=2)) == 1
    assert gain_of(create_model("mlp", 3, in_channels=1, image_size=4)) == math.sqrt(2)
