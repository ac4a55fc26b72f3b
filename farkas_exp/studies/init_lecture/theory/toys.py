"""Small loss functions whose landscape can be drawn (lecture on the initialization of residual networks, Section 5).

(1 - u v)^2             two linear layers of one unit each: a strict saddle at the origin, minima where u v = 1
||M - u u^T||_F^2       a matrix of rank one: minima at +- sqrt(lambda_1) v_1, strict saddles elsewhere
(1 - phi(w))^2          one unit: with a ReLU, every w < 0 is a second-order stationary point of value 1
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EIGENVALUES = (2.0, 1.0)
"""Of M, which is diagonal."""
FLAT = 1e-9
"""What counts as zero in a gradient or an eigenvalue."""

Toy = Callable[[Tensor], Tensor]
"""(..., n) to the loss at each point, (...)."""


def product(point: Tensor) -> Tensor:
    """(1 - u v)^2."""
    return (1 - point[..., 0] * point[..., 1]) ** 2


def rank_one(point: Tensor) -> Tensor:
    """||M - u u^T||_F^2 for the diagonal M of `EIGENVALUES`. Its gradient is 4 (u u^T - M) u."""
    matrix = torch.diag(torch.tensor(EIGENVALUES, dtype=point.dtype))
    return (matrix - point[..., :, None] * point[..., None, :]).square().sum((-2, -1))


ACTIVATED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "square": torch.square,
    "sigmoid": torch.sigmoid,
    "leaky relu": lambda w: F.leaky_relu(w, 0.1),
    "softplus": F.softplus,
}
"""phi of the toys with one unit."""


def activated(name: str) -> Toy:
    """(1 - phi(w))^2."""
    return lambda point: (1 - ACTIVATED[name](point[..., 0])) ** 2


TOYS: Mapping[str, Toy] = {
    "(1 - u v)^2": product,
    "||M - u u^T||^2": rank_one,
    **{f"(1 - {name}(w))^2": activated(name) for name in ACTIVATED},
}

STATIONARY: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "(1 - u v)^2": ((0, 0), (1, 1), (2, 0.5), (-1, -1)),
    "||M - u u^T||^2": ((0, 0), (math.sqrt(EIGENVALUES[0]), 0), (-math.sqrt(EIGENVALUES[0]), 0), (0, 1), (0, -1)),
    "(1 - relu(w))^2": ((-1,), (1,)),
    "(1 - square(w))^2": ((0,), (-1,), (1,)),
    "(1 - sigmoid(w))^2": (),  # falls towards 0 for w to infinity
    "(1 - leaky relu(w))^2": ((1,),),
    "(1 - softplus(w))^2": ((math.log(math.e - 1),),),
}
"""Stationary points of each toy; of (1 - u v)^2 four of a curve and the origin, of the ReLU one of a half-line."""


@dataclass(frozen=True)
class Analysis:
    """A toy at a point."""

    point: tuple[float, ...]
    value: float
    gradient: float
    eigenvalues: tuple[float, ...]

    @property
    def stationary(self) -> bool:
        """Whether the gradient is zero."""
        return self.gradient < FLAT

    @property
    def second_order(self) -> bool:
        """Whether it is a second-order stationary point: the Hessian has no negative eigenvalue."""
        return self.stationary and min(self.eigenvalues) >= -FLAT

    @property
    def kind(self) -> str:
        """What a stationary point is. The global minimum of every toy but the rank-one one is 0."""
        if not self.stationary:
            return "not stationary"
        return "second-order stationary point" if self.second_order else "strict saddle"


def analyse(toy: Toy, point: tuple[float, ...]) -> Analysis:
    """Value, norm of the gradient and eigenvalues of the Hessian at a point, by differentiation in float64."""
    at = torch.tensor(point, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(toy, at)
    assert isinstance(hessian, Tensor)
    eigenvalues = tuple(torch.linalg.eigvalsh(hessian).tolist())
    return Analysis(point, float(toy(at)), float(_gradient(toy, at).norm()), eigenvalues)


def _gradient(toy: Toy, point: Tensor) -> Tensor:
    point = point.detach().requires_grad_()
    return torch.autograd.grad(toy(point), point)[0]


def descend(toy: Toy, start: tuple[float, ...], steps: int = 400, rate: float = 0.02) -> Tensor:
    """The path of gradient descent from `start`: (steps + 1, n), in float64."""
    point = torch.tensor(start, dtype=torch.float64)
    path = [point]
    for _ in range(steps):
        point = point - rate * _gradient(toy, point)
        path.append(point)
    return torch.stack(path)
