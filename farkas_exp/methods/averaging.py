"""An exponential moving average of the weights, with which the network is evaluated (Polyak and Juditsky 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from farkas_exp.methods.base import Method, Training


class Averaging(Method):
    """`optimizer.ema`: after step n, average <- d average + (1 - d) weights with d = min(ema, (1 + n) / (10 + n)).

    The rising d forgets the first weights even in a short run. The running statistics of batch norm are averaged, too.
    Training and diagnostics use the weights themselves.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.current = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        self.average = [tensor.clone() for tensor in self.current]
        self.steps = 0

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average."""
        self.steps += 1
        decay = min(self.config.optimizer.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, self.current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the average in place of the weights."""
        kept = [tensor.clone() for tensor in self.current]
        self._put(self.average)
        self.training.share()  # the running statistics of the first process
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        torch._foreach_copy_(self.current, values)  # pyright: ignore[reportPrivateImportUsage]

    def state(self) -> dict[str, Any]:
        """The average, and of how many steps it is."""
        return {"average": self.average, "steps": self.steps}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take it over."""
        for mine, other in zip(self.average, saved["average"], strict=True):
            mine.copy_(other)
        self.steps = saved["steps"]
