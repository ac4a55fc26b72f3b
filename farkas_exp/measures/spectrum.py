"""Singular values and effective ranks of the layers of a network."""

import torch
from torch import Tensor, nn

from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.standardization import Standardizable
from farkas_exp.methods.rank_projection import frequencies, map_sizes


def conv_singular_values(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """All singular values of a circular convolution on maps of `size`, (H * W, min(C_out, C_in)).

    Args:
        weight: (C_out, C_in, k_h, k_w), as PyTorch's cross-correlation takes it; k at most the size.
        size: (H, W).
    """
    return singular_values(frequencies(weight, size)).flatten(0, 1)


def singular_values(matrices: Tensor) -> Tensor:
    """The singular values of (..., m, n) matrices, (..., min(m, n)); NaN if there is an entry that is not finite."""
    if matrices.isfinite().all():
        return torch.linalg.svdvals(matrices)
    return torch.full((*matrices.shape[:-2], min(matrices.shape[-2:])), torch.nan, device=matrices.device)


def effective_rank(singular_values: Tensor) -> float:
    """||sigma||_1 / ||sigma||_2, from 1 for one value to the square root of their number for equal ones."""
    values = singular_values.double().flatten()
    length = float(values.norm())
    return float(values.sum()) / length if length else 0.0


def used_weight(layer: nn.Module) -> Tensor:
    """The weight that a layer multiplies its input with."""
    if isinstance(layer, FarkasLayer):
        return layer.augmented()[0]
    return layer.used_weight() if isinstance(layer, Standardizable) else layer.get_parameter("weight")


@torch.no_grad()
def effective_ranks(model: nn.Module, images: Tensor) -> dict[str, float]:
    """The effective rank of every linear and convolution layer; of a Farkas layer with its aggregated row."""
    sizes = map_sizes(model, images)
    names = {module: name for name, module in model.named_modules()}
    ranks = {}
    for layer, size in sizes.items():
        weight = used_weight(layer)
        values = singular_values(weight) if weight.dim() == 2 else conv_singular_values(weight, size)
        ranks[names[layer]] = effective_rank(values)
    return ranks
