"""Gradient descent on linear residual networks, and whether Theorem 2.2 holds along its path."""

from dataclasses import dataclass

import torch

from farkas_exp.models.linear_residual import LinearResidual
from farkas_exp.studies.identity_matters.theory.regression import Regression, largest_norm


def random_regression(size: int, gamma: float, seed: int) -> Regression:
    """A target with singular values from exp(-gamma) to exp(gamma) between random rotations, det R > 0, in float64.

    The inputs' second moments have eigenvalues from 1/2 to 2 in random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    left, right, axes = (_orthogonal(size, generator) for _ in range(3))
    exponents = torch.linspace(-1, 1, size, dtype=torch.float64)
    target = left @ torch.diag((gamma * exponents).exp()) @ right
    if torch.linalg.det(target) < 0:
        target[0].neg_()
    return Regression(target, axes @ torch.diag(2**exponents) @ axes.T)


def _orthogonal(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


@dataclass(frozen=True)
class Path:
    """A path of gradient descent, one entry for each of its points: before the first step, ..., after the last one.

    Attributes:
        excess_risk: f - C_opt.
        squared_gradient: ||grad f||_F^2.
        bound: what Theorem 2.2 says that it is at least; 0 outside of the theorem's domain.
        norm: |||A|||.
    """

    excess_risk: tuple[float, ...]
    squared_gradient: tuple[float, ...]
    bound: tuple[float, ...]
    norm: tuple[float, ...]

    @property
    def smallest_ratio(self) -> float:
        """The smallest ratio of the squared gradient to its bound, over the points inside of the theorem's domain."""
        pairs = zip(self.squared_gradient, self.bound, strict=True)
        return min(gradient / bound for gradient, bound in pairs if bound > 0)

    @property
    def inside(self) -> int:
        """The number of points with |||A||| < 1."""
        return sum(norm < 1 for norm in self.norm)


def descend(problem: Regression, depth: int, steps: int, rate: float) -> Path:
    """Train a `LinearResidual` in float64 by gradient descent on the population risk, from zero weights.

    The learning rate is `rate` / l: the whole product moves by about `rate` times its gradient, whatever the depth.
    """
    model = LinearResidual(depth, len(problem.target)).double()
    for weight in model.weights():
        torch.nn.init.zeros_(weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate / depth)
    rows = []
    for _ in range(steps + 1):
        risk = problem.excess_risk(model.product())
        optimizer.zero_grad()
        risk.backward()
        weights = [weight.detach() for weight in model.weights()]
        gradient = sum(weight.grad.square().sum() for weight in model.weights() if weight.grad is not None)
        bound = problem.gradient_bound(weights, risk.detach())
        rows.append((float(risk.detach()), float(gradient), float(bound), float(largest_norm(weights))))
        optimizer.step()
    return Path(*map(tuple, zip(*rows, strict=True)))
