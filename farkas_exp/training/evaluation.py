"""Losses and metrics of a network, summed over batches: in the steps of a training and in an evaluation."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farkas_exp.data.base import Batch
from farkas_exp.machine.errors import UserError
from farkas_exp.training.metrics import Metric, means
from farkas_exp.training.precision import computing_in


def counted(loss: Tensor, metrics: Sequence[Metric], logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss and metrics of a batch, as one vector."""
    sums = [loss]
    for metric in metrics:
        count = metric.count(logits, labels)
        if not isinstance(count, Tensor) or count.dim():
            got = f"one of {tuple(count.shape)}" if isinstance(count, Tensor) else f"a {type(count).__name__}"
            raise UserError(f"metric {metric.name}: it has to return its sum over the images as a tensor (), not {got}")
        sums.append(count.to(loss.dtype))
    return torch.stack(sums)


@torch.no_grad()
def evaluation_sums(
    model: nn.Module, batches: Iterable[Batch], metrics: Sequence[Metric], precision: str, device: torch.device
) -> list[float]:
    """The sums of the loss and of each metric over all batches, and the number of their images."""
    model.eval()
    totals, count = torch.zeros(len(metrics) + 1, device=device), 0
    for images, labels in batches:
        with computing_in(precision, device):
            logits = model(images).float()
        totals += counted(F.cross_entropy(logits, labels, reduction="sum"), metrics, logits, labels)
        count += len(labels)
    return [*totals.tolist(), float(count)]


def named_means(on: str, metrics: Sequence[Metric], sums: Sequence[float]) -> dict[str, float]:
    """The means by name, such as `test_loss`, from the `evaluation_sums` over the set `on`."""
    *figures, count = sums
    found = means(dict(zip(("loss", *(metric.name for metric in metrics)), figures, strict=True)), count)
    return {f"{on}_{name}": value for name, value in found.items()}
