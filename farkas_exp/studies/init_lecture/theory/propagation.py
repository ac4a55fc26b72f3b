"""How far a random residual network stretches its input (lecture on the initialization of residual networks).

Linear residual networks z^l = (I + W^l) z^(l-1) as `init=...` draws them; and residual scaling (Balduzzi et al. 2017),
z^(l+1) = alpha (z^l + beta W^l relu(z^l)) with W^l ~ N(0, 2 / d).
"""

import math

import torch
from torch import Tensor

from farkas_exp.initialization.apply import initialize
from farkas_exp.layers.residual import Scaling
from farkas_exp.models.linear_residual import LinearResidual


@torch.no_grad()
def norm_ratios(init: str, depth: int, width: int, draws: int, seed: int = 0) -> Tensor:
    """||y|| / ||x|| of `draws` linear residual networks, for x of all ones: (draws,)."""
    ratios = []
    for draw in range(draws):
        model = LinearResidual(depth, width)
        initialize(model, init, seed=seed * 1_000_003 + draw)
        ratios.append(model(torch.ones(1, width)).norm() / math.sqrt(width))
    return torch.stack(ratios)


def expected_ratio(init: str, depth: int) -> float:
    """The root of E ||y||^2 / ||x||^2 = (1 + d v)^L, and 1 where the branches are minus the identity or zero."""
    added = {"xavier": 1.0, "residual_xavier": 1.0 / depth, "minus_identity": 0.0, "zero": 0.0}[init]
    return (1 + added) ** (depth / 2)


def root_mean_square(values: Tensor) -> float:
    """The root of the mean of the squares."""
    return float(values.double().square().mean().sqrt())


@torch.no_grad()
def scaled_variances(scaling: Scaling, branches: int, width: int, batch: int, normalize: bool) -> Tensor:
    """The mean square of z^0, ..., z^L over units and points, for z^0 ~ N(0, 1): (branches + 1,).

    `branches` is L, the lecture's L - 1, and `batch` the number of points. `normalize`: batch normalization (mean 0,
    variance 1 of each unit) before the ReLU of each branch.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    seen = [z.square().mean()]
    for _ in range(branches):
        weight = torch.randn(width, width, generator=generator, dtype=torch.float64) * math.sqrt(2 / width)
        hidden = (z - z.mean(0)) / z.std(0, correction=0) if normalize else z
        branch, shortcut = scaling.terms(hidden.relu() @ weight.T, z)
        z = branch + shortcut
        seen.append(z.square().mean())
    return torch.stack(seen)


def expected_variance(scaling: Scaling, branches: int, normalize: bool) -> float:
    """The expected mean square of z^L.

    Without normalization every block multiplies it by alpha^2 (1 + beta^2); with it the branch has variance 1 whatever
    its input, so v becomes alpha^2 (v + beta^2): beta^2 L + 1 for alpha = 1.
    """
    variance = 1.0
    for _ in range(branches):
        variance = scaling.alpha**2 * (variance + scaling.beta**2 * (1.0 if normalize else variance))
    return variance
