"""Run directories made for tests of the report, as the trainer leaves them: finished, failed, running, torn."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from farkas_exp.config import Config, parse, to_dict
from farkas_exp.config.identity import Identity, identify
from farkas_exp.machine.files import write_text
from farkas_exp.runs import RunDirectory, write_json


def settings(model: str = "resnet18", **overrides: Any) -> dict[str, Any]:
    """A nested configuration; overrides by dotted key with `__` for the dot, such as `lr__value=0.1`."""
    nested: dict[str, Any] = {"model": {"name": model}, "lr": {"value": 0.01}, "dataset": {"name": "cifar10"}}
    if overrides.get("dataset__name") == "moons":  # points, not images
        nested["augmentation"] = {"crop_padding": 0, "flip": False, "cutout": 0}
    for key, value in overrides.items():
        *groups, last = key.split("__")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = value
    return nested


_PARSED: dict[str, tuple[Config, Identity]] = {}
"""Each configuration of which there is a run by now: many tests make the same ones."""


def make_run(
    runs_dir: Path,
    config: dict[str, Any],
    *,
    seed: int = 0,
    state: str = "finished",
    epoch: int | None = None,
    test_error: float = 10.0,
    reason: str | None = None,
    result: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
    diagnostics: Iterable[dict[str, Any]] = (),
) -> Path:
    """Write a run directory of `config` and `seed` in the given state, with curves that end on `test_error`."""
    if (known := repr(config)) not in _PARSED:
        checked = parse(config)
        _PARSED[known] = checked, identify(checked)
    parsed, identity = _PARSED[known]
    parsed = replace(parsed, seed=seed, runs_dir=str(runs_dir))
    run = RunDirectory(runs_dir / identity.folder / f"seed_{seed}")
    run.path.mkdir(parents=True, exist_ok=True)
    done = parsed.epochs if epoch is None else epoch
    record = {"schema": 1, "identity": identity.hash, "slug": identity.slug, "seed": seed, "wandb_id": f"w{seed}"}
    write_json(run.record, {**record, "created": "2026-01-01T00:00:00", "config": to_dict(parsed)})
    write_json(run.state, {"state": state, "epoch": done, "epochs": parsed.epochs, "test_error": test_error})
    write_text(run.metrics, _made_lines(done, test_error, seed) if rows is None else _lines(rows))
    if diagnostics:
        write_text(run.diagnostics, _lines(diagnostics))
    if state in ("finished", "failed"):
        outcome = {
            "schema": 1, "status": state, "reason": reason, "epochs": done, "test_error": test_error,
            "test_loss": 0.5, "train_error": test_error / 2, "train_loss": 0.3,
            "best_test_error": max(test_error - 0.1, 0.0), "seconds": 100.0 + seed, "parameters": 1000,
            "images_per_second": 500.0,
        }  # fmt: skip
        outcome |= result or {}
        write_json(run.result, outcome)
    return run.path


@cache
def _made_lines(epochs: int, last_error: float, seed: int) -> str:
    return _lines(made_rows(epochs, last_error, seed))


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def made_rows(epochs: int, last_error: float, seed: int = 0, start: float = 90.0) -> list[dict[str, Any]]:
    """Rows of metrics whose test error falls from `start` to `last_error`, with a little noise on the way."""
    noise = np.random.default_rng(seed).normal(0, 0.6, epochs)
    rows = []
    for index in range(epochs):
        left = 0.0 if index == epochs - 1 else math.exp(-4 * (index + 1) / epochs)
        error = last_error + (start - last_error) * left + (noise[index] if left else 0.0)
        rows.append(
            {
                "epoch": index + 1, "lr": 0.1, "train_loss": error / 40, "train_error": 0.9 * error,
                "test_loss": error / 35, "test_error": error, "images_per_second": 400.0, "epoch_seconds": 1.0,
                "peak_memory_bytes": 1, "time": float(index),
            }
        )  # fmt: skip
    return rows
