"""What the entries of `farkas_newcomer` build."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from farkas_exp.methods.base import Method, Regularizer
from farkas_exp.models.kit import Unit
from farkas_exp.models.rectangular import ShortcutUnit
from farkas_exp.report.render import Report
from farkas_exp.report.tables import Table, cell


def build_stairs(plan: Any) -> nn.Module:
    """A linear layer, then `steps` residual blocks of one layer each, then the classifier."""
    width, kit = plan.options.width, plan.kit
    steps = [ShortcutUnit(Unit(kit, kit.linear(width, width), width, spatial=False)) for _ in range(plan.options.steps)]
    first = nn.Linear(plan.in_channels * plan.image_size**2, width)
    return nn.Sequential(nn.Flatten(), first, *steps, nn.Linear(width, plan.num_classes))


def by_steps(runs: Sequence[Any]) -> Report:
    """One row a run."""
    rows = sorted((run.config["model"]["steps"], run.result["test_error"]) for run in runs)
    cells = tuple((cell(str(steps)), cell(f"{error:.2f}")) for steps, error in rows)
    records = tuple({"steps": steps, "test_error": error} for steps, error in rows)
    return Report("by_steps", (Table("The error by steps", ("steps", "test error (%)"), cells, records=records),))


class Signs(torch.optim.Optimizer):
    """Moves a share of every step by the sign of the gradient, and the rest not at all."""

    def __init__(self, groups: Any, lr: float, momentum: float, share: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "share": share})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(parameter.grad.sign(), alpha=-group["lr"] * group["share"])


def signs(groups: Any, lr: float, config: Any, fused: bool) -> Signs:
    """Signs."""
    return Signs(groups, lr, config.momentum, config.share)


class Quiet(Regularizer):
    """Small logits."""

    def penalty(self, logits: torch.Tensor) -> torch.Tensor:
        """Their mean size, to the power."""
        own: Any = self.config.regularizer
        return own.strength * logits.abs().pow(own.power).mean()


class Halving(Method):
    """Half the rate in the last epochs."""

    def learning_rate(self, scheduled: float, epoch: int) -> float:
        """Half of it."""
        return scheduled / 2 if epoch >= self.config.epochs - self.config.callback.last_epochs else scheduled


class Counting(Method):
    """Says how many steps there were."""

    steps = 0

    def after_step(self) -> None:
        """One more."""
        self.steps += 1

    def after_epoch(self, epoch: int) -> bool:
        """Say it."""
        print(f"counted {self.steps} in epoch {epoch + 1}")
        return False


def largest(subject: Any) -> dict[str, Any]:
    """The largest of the last layer's biases."""
    return {"largest": float(list(subject.model.parameters())[-1].detach().abs().max())}
