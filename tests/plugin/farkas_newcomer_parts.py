"""The network and the table of `farkas_newcomer`."""

from collections.abc import Sequence
from typing import Any

from torch import nn

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
