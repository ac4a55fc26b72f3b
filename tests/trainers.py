"""Trainers without a run directory."""

from dataclasses import dataclass
from typing import Any

import torch

from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.training.building import build_model
from farkas_exp.training.optimizer import build_optimizer
from farkas_exp.training.trainer import Trainer, TrainerState
from tests.configs import config

CPU = torch.device("cpu")

SMALL = {"model": {"name": "mlp", "depth": 1, "width": 6, "blocks": None, "widths": None}}


def made_trainer(**overrides: Any) -> Trainer:
    made = config(**{**SMALL, "normalization": {"name": "none"}, **overrides})
    data = build_data(made.dataset, made.augmentation, Batching(made.batch_size, made.seed))
    model = build_model(made, data, CPU)
    return Trainer(made, model, build_optimizer(model, made.optimizer, made.lr.value), data, CPU)


@dataclass
class Stop:
    """A request to stop, by hand."""

    requested: bool = False

    def at(self, step: int) -> None:
        """Ask for it after the third step."""
        self.requested = step == 3


def trained(trainer: Trainer, state: TrainerState, **options: Any) -> bool:
    return trainer.train_epoch(state, Stop(), **options)  # type: ignore[arg-type]
