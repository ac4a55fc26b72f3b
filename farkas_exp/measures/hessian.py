"""The loss near the weights: norm of its gradient, extreme eigenvalues of its Hessian (Lanczos)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farkas_exp.layers.paths import in_mode, plain_path


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def parameter_norm(model: nn.Module) -> float:
    """The Euclidean norm of all trainable parameters."""
    return float(torch.stack([p.double().pow(2).sum() for p in trainable(model)]).sum().sqrt())


@torch.no_grad()
def parameter_distance(first: nn.Module, second: nn.Module) -> float:
    """The Euclidean norm of the difference of all trainable parameters."""
    pairs = zip(trainable(first), trainable(second), strict=True)
    return float(torch.stack([(b.double() - a.double()).pow(2).sum() for a, b in pairs]).sum().sqrt())


def loss_and_gradient_norm(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """The mean cross-entropy over a batch and the Euclidean norm of its gradient, in evaluation mode."""
    loss, gradient = _loss_and_gradient(model, images, labels, create_graph=False)
    return loss, float(gradient.double().norm())


def hessian_extremes(
    model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = 80, seed: int = 0
) -> tuple[float, float]:
    """The smallest and largest eigenvalue of the Hessian of the mean cross-entropy over a batch, in evaluation mode.

    By Lanczos' method with full reorthogonalization, in a Krylov space of `steps` dimensions, from a vector drawn by
    `seed`. ("Truth or backpropaganda?" runs a power method on a shifted Hessian, which finds the smallest eigenvalue
    only to the accuracy of the largest.) NaN where the Hessian is not finite.
    """
    _, gradient = _loss_and_gradient(model, images, labels, create_graph=True)
    parameters = trainable(model)

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # no parameter moves the gradient: the Hessian is zero
            return torch.zeros_like(vector)
        return _flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True, materialize_grads=True))

    start = torch.randn(gradient.numel(), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lanczos_extremes(product, start.to(gradient.device, gradient.dtype), steps)


def lanczos_extremes(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[float, float]:
    """The extreme eigenvalues of a symmetric operator, by Lanczos' method with full reorthogonalization.

    `product` is the operator, (n,) to (n,), and `start` not zero; the Krylov space has `steps` dimensions, unless it is
    exhausted earlier. NaN if the operator gives numbers that are not finite.
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(min(steps, start.numel())):
        image = product(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        vectors = torch.stack(basis)
        for _ in range(2):  # twice is enough
            image = image - vectors.T @ (vectors @ image)
        length = float(image.norm())
        if not math.isfinite(diagonal[-1] + length):
            return math.nan, math.nan
        scale = max(map(abs, diagonal + off_diagonal), default=0.0)
        if step + 1 == min(steps, start.numel()) or length <= 10 * torch.finfo(start.dtype).eps * max(scale, 1e-30):
            break
        off_diagonal.append(length)
        basis.append(image / length)
    main, beside = (
        torch.tensor(values, dtype=torch.float64) for values in (diagonal, off_diagonal[: len(diagonal) - 1])
    )
    values = torch.linalg.eigvalsh(torch.diag(main) + torch.diag(beside, 1) + torch.diag(beside, -1))
    return float(values[0]), float(values[-1])


def _loss_and_gradient(model: nn.Module, images: Tensor, labels: Tensor, *, create_graph: bool) -> tuple[float, Tensor]:
    with plain_path(), in_mode(model, training=False):
        loss = F.cross_entropy(model(images), labels)
    parts = torch.autograd.grad(loss, trainable(model), create_graph=create_graph, materialize_grads=True)
    return float(loss.detach()), _flat(parts)


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    """One vector of all parts."""
    return torch.cat([part.reshape(-1) for part in parts])
