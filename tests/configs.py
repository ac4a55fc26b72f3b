"""Small configurations for tests: a few seconds of training at most."""

from pathlib import Path
from typing import Any

from farkas_exp.config import Config, parse


def values(runs_dir: Path | str = "runs", **overrides: Any) -> dict[str, Any]:
    """A nested configuration of a short run on digits; `overrides` are merged in, group by group."""
    base: dict[str, Any] = {
        "model": {"name": "farkasnet18", "blocks": [1, 1], "widths": [4, 8]},
        "normalization": {"name": "batch"},
        "lr": {"value": 0.05},
        "dataset": {"name": "digits", "train_limit": 200},
        "augmentation": {"crop_padding": 1, "flip": True, "cutout": 2},
        "epochs": 3,
        "batch_size": 40,
        "failure": {"epochs": 0},
        "runs_dir": str(runs_dir),
        "device": "cpu",
        "progress": "none",
        "wandb": {"mode": "disabled"},
    }
    for key, value in overrides.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    return base


def config(runs_dir: Path | str = "runs", **overrides: Any) -> Config:
    """`values` as a checked configuration."""
    return parse(values(runs_dir, **overrides))
