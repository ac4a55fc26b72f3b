"""The factors of a linear map that are all close to the identity (Hardt and Ma 2017, Theorem 2.1 and its proof).

Every R with det R > 0 is (I + A_l) ... (I + A_1) with ||A_i||_2 <= (4 pi + 3 gamma) / l, if l >= 3 gamma, where
gamma = max(|ln sigma_max(R)|, |ln sigma_min(R)|): deeper networks have smaller optima.

From the singular value decomposition R = U K V^T with rotations U and V: q factors that are q-th roots of V^T, p that
are p-th roots of K, and q that are q-th roots of U. A rotation has an orthonormal basis in which it turns planes by
angles of at most pi (its real Schur form; eigenvalues -1 come in pairs, which are turns by pi), so its q-th root turns
them by a q-th of that and is within pi / q of the identity. The proof first writes the pairs of -1 as factors of their
own; here they share the others' factors, so that 2q + p instead of 4q + p are enough.
"""

import math

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from farkas_exp.machine.errors import UserError

LEAST_DEPTH = 3
"""One factor for each of V^T, K and U."""
_ROUNDING = 1e-12


def norm_bound(gamma: float, depth: int) -> float:
    """(4 pi + 3 gamma) / l, the bound of Theorem 2.1 on |||A|||."""
    return (4 * math.pi + 3 * gamma) / depth


def condition(target: Tensor) -> float:
    """The gamma of a matrix, max(|ln sigma_max|, |ln sigma_min|)."""
    logarithms = torch.linalg.svdvals(target).log()
    return float(logarithms.abs().max())


def split_depth(depth: int, gamma: float) -> tuple[int, int]:
    """The q and p with 2q + p = depth for which the larger of both kinds' norms, at worst, is smallest.

    A q-th root of a rotation is within 2 sin(pi / 2q) of the identity, a p-th root of K within exp(gamma / p) - 1.
    """

    def norm(q: int) -> float:
        return max(2 * math.sin(math.pi / (2 * q)), math.expm1(gamma / (depth - 2 * q)))

    q = min(range(1, (depth - 1) // 2 + 1), key=norm)
    return q, depth - 2 * q


def rotation_root(rotation: Tensor, order: int) -> Tensor:
    """The `order`-th root of an orthogonal (d, d) matrix of determinant 1 that turns its planes the shorter way."""
    form, basis, *_ = scipy.linalg.schur(rotation.double().numpy(), output="real")
    root = np.eye(len(form))
    index, reflected = 0, []
    while index < len(form):
        if index + 1 < len(form) and abs(form[index + 1, index]) > _ROUNDING:
            angle = math.atan2(form[index + 1, index], form[index, index])
            _turn(root, index, index + 1, angle / order)
            index += 2
        else:
            if form[index, index] < 0:
                reflected.append(index)
            index += 1
    assert len(reflected) % 2 == 0, "a rotation has an even number of eigenvalues -1"
    for first, second in zip(reflected[::2], reflected[1::2], strict=True):
        _turn(root, first, second, math.pi / order)
    return torch.from_numpy(basis @ root @ basis.T)


def _turn(matrix: np.ndarray, first: int, second: int, angle: float) -> None:
    """Make a plane of the identity a rotation by `angle`."""
    cos, sin = math.cos(angle), math.sin(angle)
    matrix[np.ix_([first, second], [first, second])] = [[cos, -sin], [sin, cos]]


def small_norm_weights(target: Tensor, depth: int) -> list[Tensor]:
    """A_1, ..., A_l, each (d, d) in float64, with (I + A_l) ... (I + A_1) = R and |||A||| <= (4 pi + 3 gamma) / l.

    Args:
        target: R, (d, d), with a positive determinant.
        depth: l, at least 3 gamma, and at least 3.
    """
    target = target.double()
    if not torch.linalg.det(target) > 0:
        raise UserError("target: its determinant must be positive; add a dimension, as below Theorem 2.1")
    gamma = condition(target)
    least = max(LEAST_DEPTH, math.ceil(3 * gamma - _ROUNDING))
    if depth < least:
        raise UserError(f"depth: {depth} is too small for this target (gamma = {gamma:.3g}); it must be >= {least}")
    left, values, right = torch.linalg.svd(target)
    if torch.linalg.det(left) < 0:  # then both are reflections: flip one singular pair
        left[:, 0].neg_()
        right[0].neg_()
    q, p = split_depth(depth, gamma)
    roots = [rotation_root(right, q)] * q + [torch.diag(values ** (1 / p))] * p + [rotation_root(left, q)] * q
    identity = torch.eye(len(target), dtype=torch.float64)
    return [root - identity for root in roots]
