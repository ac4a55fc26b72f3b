"""The work of a network: counted for one image, and without a trace on the network."""

import torch
from torch import nn

from farkas_exp.layers.farkas import FarkasLinear
from farkas_exp.layers.paths import fused_allowed
from farkas_exp.measures.work import multiply_adds


def test_the_multiply_adds_of_an_image_are_those_of_its_products_whatever_the_batch_and_the_mode():
    convolution = nn.Conv2d(2, 3, (3, 1), stride=(2, 1), padding=(1, 0))
    net = nn.Sequential(convolution, nn.Flatten(), nn.BatchNorm1d(12), FarkasLinear(12, 5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for images in (torch.rand(1, 2, 3, 2), torch.rand(7, 2, 3, 2)):  # batch norm could not train on a single image
        assert multiply_adds(net, images) == 3 * 2 * 3 * (2 * 2) + 12 * 5
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_fused_path_whose_products_nobody_sees_is_not_taken_and_no_graph_is_kept():
    seen = []

    class Asking(nn.Module):
        def forward(self, images):
            seen.append((fused_allowed(), torch.is_grad_enabled()))
            return images

    assert fused_allowed()
    assert multiply_adds(Asking(), torch.rand(1, 2)) == 0
    assert seen == [(False, False)]
