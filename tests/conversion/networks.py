"""What the tests of `convert` share."""

import torch
from torch import nn


def forms(conversion):
    return [place.form for place in conversion.places]


def conv_norm(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, **options), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
