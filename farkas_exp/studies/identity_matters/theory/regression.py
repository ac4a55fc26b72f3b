"""Linear residual regression (Hardt and Ma 2017, Section 2): y = R x + noise, learned by (I + A_l) ... (I + A_1) x.

With E = (I + A_l) ... (I + A_1) - R and Sigma = E[x x^T], the population risk is f(A) = ||E Sigma^(1/2)||_F^2 + C
(Claim 2.3), where C, the noise's expected squared norm, is also the smallest value C_opt if the network can be R.
Matrices are (d, d); a network is the list A_1, ..., A_l in the order in which the layers are applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """A linear regression problem: the map R to be learned and the inputs' second moments Sigma, both (d, d)."""

    target: Tensor
    covariance: Tensor

    def excess_risk(self, product: Tensor) -> Tensor:
        """The risk above C, ||E Sigma^(1/2)||_F^2 = tr(E Sigma E^T), of the network with this product of its layers."""
        error = product - self.target
        return ((error @ self.covariance) * error).sum()

    def gradient_bound(self, weights: Sequence[Tensor], excess_risk: Tensor) -> Tensor:
        """What ||grad f||_F^2 is at least (Theorem 2.2, Equation 2.3).

        4 l (1 - tau)^(2l - 2) sigma_min(Sigma) (f - C_opt) with tau = |||A||| < 1; 0 where tau >= 1, where the theorem
        says nothing.
        """
        tau = largest_norm(weights)
        depth = len(weights)
        smallest = torch.linalg.matrix_norm(self.covariance, -2)
        return 4 * depth * (1 - tau) ** (2 * depth - 2) * (tau < 1) * smallest * excess_risk


def largest_norm(weights: Sequence[Tensor]) -> Tensor:
    """|||A||| = max_i ||A_i||_2, the largest spectral norm of a layer."""
    return torch.linalg.matrix_norm(torch.stack(list(weights)), 2).max()
