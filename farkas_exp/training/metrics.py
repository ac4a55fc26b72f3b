"""The metrics of training and evaluation beside the loss, by name.

A metric is a function of logits (N, K) and labels (N,) that returns its sum over the images, on the device. Its name
appears in the row of an epoch (`test_error`), the result, the console, W&B and the tables:

    @metric("confidence")
    def confidence(logits, labels):
        return logits.softmax(1).amax(1).sum()
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from farkas_exp.data.base import DataInfo

Count = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """One metric; one whose name begins with `error` is in percent.

    Attributes:
        name: without the set that it is measured on.
        count: the sum over a batch.
        in_training: whether training steps count it, too.
        applies: whether it is measured on such data.
    """

    name: str
    count: Count
    in_training: bool
    applies: Callable[[DataInfo], bool]


_METRICS: dict[str, Metric] = {}


def metric(
    name: str, *, in_training: bool = False, applies: Callable[[DataInfo], bool] = lambda info: True
) -> Callable[[Count], Count]:
    """Register a function as the metric `name`; see `Metric`.

    Raises:
        ValueError: the name is taken.
    """

    def register(count: Count) -> Count:
        if name in _METRICS or name == "loss":
            raise ValueError(f"metric {name!r} is registered already")
        _METRICS[name] = Metric(name, count, in_training, applies)
        return count

    return register


def metrics_on(info: DataInfo, *, in_training: bool = False) -> list[Metric]:
    """The metrics on such data: all, or those of training steps."""
    return [each for each in _METRICS.values() if each.applies(info) and (each.in_training or not in_training)]


def means(sums: Mapping[str, float], count: float) -> dict[str, float]:
    """The means over `count` images, errors in percent."""
    return {name: (100 if name.startswith("error") else 1) * value / count for name, value in sums.items()}


@metric("error", in_training=True)
def errors(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of labels that are not the largest of their logits."""
    return (logits.argmax(1) != labels).sum()


@metric("error_top5", applies=lambda info: info.top5)
def missed_top5(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of labels that are not among the five largest of their logits."""
    return (logits.topk(5, dim=1).indices != labels[:, None]).all(1).sum()
