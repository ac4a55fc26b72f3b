"""Points of the plane for tests that need no images."""

import torch

from farkas_exp.data.arrays.moons import make_moons


def moons(count=85):
    """Points (N, 2, 1, 1) of two moons, and their labels."""
    points, labels = make_moons(count, 0.1, torch.Generator().manual_seed(0))
    return points.float().view(-1, 2, 1, 1), labels
