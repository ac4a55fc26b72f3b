"""The residual network that maps any sample to any labels (Hardt and Ma 2017, Section 3, Theorem 3.2).

    h_0 = A_0 x,    h_j = h_(j-1) + T_j(h_(j-1)),    y = T_out(h_l),    T(h) = V relu(U h + s),

with l = ceil(n / k) blocks of width k for n points. A_0 is a random projection, and every class has a random unit
vector q. Block j takes k of the points z_i = A_0 x_i to the q of their classes and leaves all others where they are:
the rows of its U are those z_i and its thresholds -s lie between every inner product of different vectors and every
|z_i|^2, so exactly one unit is active at each of the k points, and none elsewhere. The output takes q_j to the unit
vector e_j in the same way.

Lemma B.1 puts the threshold at 1 - 2 rho, which lets other points through: a factor 1/2 is lost in its (B.1), since
<a, b> = (|a|^2 + |b|^2 - |a - b|^2) / 2. Here the threshold is half way between the largest such inner product and the
smallest |z_i|^2, where there is such a way; otherwise the construction is refused.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farkas_exp.machine.errors import UserError


class ReluMap(nn.Module):
    """T(h) = V relu(U h + s) for rows h: (N, inputs) to (N, outputs); U (m, inputs), s (m,), V (outputs, m)."""

    def __init__(self, u: Tensor, s: Tensor, v: Tensor) -> None:
        super().__init__()
        self.u, self.s, self.v = nn.Parameter(u), nn.Parameter(s), nn.Parameter(v)

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(input @ self.u.T + self.s) @ self.v.T


class ExactFitNet(nn.Module):
    """Projection, residual blocks h + T(h), output map without a shortcut: (N, d) to (N, classes)."""

    def __init__(self, projection: Tensor, blocks: Sequence[ReluMap], output: ReluMap) -> None:
        super().__init__()
        self.projection = nn.Parameter(projection)
        self.blocks = nn.ModuleList(blocks)
        self.output = output

    def forward(self, points: Tensor) -> Tensor:
        hidden = points @ self.projection.T
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.output(hidden)


def exact_fit(points: Tensor, labels: Tensor, classes: int, width: int, generator: torch.Generator) -> ExactFitNet:
    """The network of `width` k that maps every point to the unit vector of its label.

    Args:
        points: (n, d), of length 1 and apart from each other; their type is the network's.
        labels: (n,), from 0 to `classes` - 1.
        classes: r.
        width: k, at least of the order of log n.
        generator: for the projection, N(0, 1/k), and the classes' vectors.

    Raises:
        UserError: no threshold separates the projected points from each other and from the classes' vectors.
    """
    projection = torch.randn(width, points.shape[1], generator=generator, dtype=points.dtype) / width**0.5
    centers = torch.randn(classes, width, generator=generator, dtype=points.dtype)
    centers /= centers.norm(dim=1, keepdim=True)
    hidden = points @ projection.T
    threshold = separating_threshold(hidden, centers, f"width: {width} is too narrow for these {len(points)} points")
    wanted = centers[labels]
    blocks = [
        _move(hidden[start : start + width], (wanted - hidden)[start : start + width], threshold)
        for start in range(0, len(points), width)
    ]
    nothing = centers.new_zeros(0, width)
    own = separating_threshold(centers, nothing, f"width: {width} is too narrow for {classes} classes")
    output = _move(centers, torch.eye(classes, dtype=points.dtype), own)
    return ExactFitNet(projection, blocks, output)


def separating_threshold(points: Tensor, others: Tensor, failure: str) -> float:
    """Half way between the smallest |z_i|^2 and the largest inner product of a z_i with another z_j or an other.

    Args:
        points: z, (n, k).
        others: (m, k).
        failure: how the message begins where there is nothing between them.
    """
    products = points @ points.T
    lengths = products.diagonal().clone()
    products.fill_diagonal_(-torch.inf)
    largest = float(torch.cat((products, points @ others.T), 1).max())
    smallest = float(lengths.min())
    if not largest < smallest:
        raise UserError(
            f"{failure}: their inner products reach {largest:.3g}, their squared lengths go down to {smallest:.3g}, and"
            " no threshold separates them; choose a larger width"
        )
    return (largest + smallest) / 2


def _move(points: Tensor, steps: Tensor, threshold: float) -> ReluMap:
    """The T that is `steps[i]` at points[i], and 0 at whatever has smaller inner products than `threshold` with all."""
    above = points.square().sum(1) - threshold
    s = torch.full_like(above, -threshold)
    return ReluMap(points.clone(), s, (steps / above[:, None]).T.contiguous())
