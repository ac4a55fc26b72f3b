"""Trainers without a run directory."""

from dataclasses import dataclass
from typing import Any

from farkas_exp.machine.processes import ALONE
from farkas_exp.training.session import build_trainer
from farkas_exp.training.trainer import Trainer, TrainerState
from tests.configs import config

SMALL = {"model": {"name": "mlp", "depth": 1, "width": 6, "blocks": None, "widths": None}}


def made_trainer(**overrides: Any) -> Trainer:
    return build_trainer(config(**{**SMALL, "normalization": {"name": "none"}, **overrides}), ALONE)


@dataclass
class Stop:
    """A request to stop, by hand."""

    requested: bool = False

    def at(self, step: int) -> None:
        """Ask for it after the third step."""
        self.requested = step == 3


def trained(trainer: Trainer, state: TrainerState, **options: Any) -> bool:
    return trainer.train_epoch(state, Stop(), **options)  # type: ignore[arg-type]
