"""The neural tangent kernel on a few images (Jacot et al. 2018), and how far training has moved it."""

import torch
from torch import Tensor, nn

from farkas_exp.layers.paths import in_mode, plain_path
from farkas_exp.measures.hessian import trainable


def tangent_kernel(model: nn.Module, images: Tensor) -> Tensor:
    """J J^T of the Jacobian J of all logits by all trainable parameters, in evaluation mode.

    Computed row by row without ever holding J: a row of the kernel is J applied to a row of J, and J v is the
    derivative of J^T u by u, applied to v.

    Returns:
        (N * classes, N * classes) for N images; the entries of an image are next to each other.
    """
    parameters = trainable(model)
    with plain_path(), in_mode(model, training=False):
        logits = model(images).flatten()
    u = torch.zeros_like(logits, requires_grad=True)
    pulled = torch.autograd.grad(logits, parameters, u, create_graph=True, allow_unused=True, materialize_grads=True)
    used = [part for part in pulled if part.requires_grad]
    rows = []
    for unit in torch.eye(len(logits), dtype=logits.dtype, device=logits.device):
        row = torch.autograd.grad(
            logits, parameters, unit, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        vectors = [value for value, part in zip(row, pulled, strict=True) if part.requires_grad]
        rows.append(torch.autograd.grad(used, u, vectors, retain_graph=True)[0])
    return torch.stack(rows).detach()


def kernel_correlation(before: Tensor, after: Tensor) -> float:
    """The correlation coefficient of the entries of two kernels: blind to their scale."""
    return float(torch.corrcoef(torch.stack([before.double().flatten(), after.double().flatten()]))[0, 1])


def kernel_change(before: Tensor, after: Tensor) -> float:
    """||after - before|| / ||before||."""
    return float((after.double() - before.double()).norm() / before.double().norm())
