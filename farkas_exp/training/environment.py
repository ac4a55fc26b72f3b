"""The environment of each start of a run (versions, device, commit), and its data, which never change."""

import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from farkas_exp import __version__
from farkas_exp.config import Config
from farkas_exp.config.extensions import foreign_code
from farkas_exp.config.schema import TORCH_COMPILE_MODES
from farkas_exp.data.base import DataInfo
from farkas_exp.data.files.prints import check_same
from farkas_exp.machine.cores import cores, processor
from farkas_exp.machine.errors import UserError
from farkas_exp.models.kernels import kernels_in_use
from farkas_exp.runs import RunDirectory, read_data, read_json, read_run, read_starts, write_json
from farkas_exp.training.trainer import Trainer, TrainerState

COMPARED = (
    "farkas_exp", "commit", "plugins", "torch", "cuda", "device", "threads", "world_size", "kernels", "channels_last",
    "compile",
)  # fmt: skip
"""What must stay the same between two starts of a run, or its numbers are not bitwise those of an unbroken one."""


def check_same_data(run: RunDirectory, config: Config, info: DataInfo) -> None:
    """Check that the run goes on with the data it began with."""
    record = read_run(run.path)
    if record is not None:
        check_same(record.data, dict(info.files), config.dataset, run.path)
    fingerprint = read_data(run).get("fingerprint")
    if fingerprint not in (None, info.fingerprint):
        raise UserError(
            f"dataset: {info.name} is not the data this run began with (fingerprint {info.fingerprint}, was "
            f"{fingerprint}); restore it, or give the new data another dataset.label, or move {run.path} away"
        )


def record_start(run: RunDirectory, config: Config, trainer: Trainer, state: TrainerState) -> str | None:
    """Add this start to the run's environment; return in words what differs from the start before, or None.

    The file describes the data and, for each start, what decides the last digits and the speed of its epochs.
    """
    info, earlier = trainer.data.info, read_starts(run)
    data = {
        "name": info.name, "train": info.train_size, "test": info.test_size, "classes": info.num_classes,
        "fingerprint": info.fingerprint, "class_names": list(info.class_names), "image_shape": list(info.image_shape),
        "mean": list(info.mean), "std": list(info.std),
    }  # fmt: skip
    start = _start(config, trainer, state)
    write_json(run.environment, {"data": data, "starts": [*earlier, start]})
    if not earlier or (state.epoch, state.step) == (0, 0):
        return None
    changes = [
        f"{key} {start[key]} (before: {earlier[-1][key]})"
        for key in COMPARED
        if key in earlier[-1] and _moving(key, earlier[-1][key]) != _moving(key, start[key])
    ]
    return ", ".join(changes) or None


def _moving(key: str, value: Any) -> Any:
    """What of a value moves the last digits: a recorded step is the eager one, a compiled one is not."""
    return value if key != "compile" or value in TORCH_COMPILE_MODES else None


def _start(config: Config, trainer: Trainer, state: TrainerState) -> dict[str, Any]:
    """This start: versions, device, threads, processes, commit."""
    device = trainer.device
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "epoch": state.epoch,
        "step": state.step,
        "farkas_exp": __version__,
        "commit": _git_commit(),
        "plugins": foreign_code(config),
        "command": shlex.join(sys.argv),
        "wandb_sweep": os.environ.get("WANDB_SWEEP_ID"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {cores()} cores",
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "world_size": trainer.processes.world_size,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "precision": config.precision,
        "compile": trainer.mode,
        "kernels": kernels_in_use(trainer.model),
        "channels_last": config.channels_last,
    }


def correct_mode(run: RunDirectory, mode: str) -> None:
    """Record the mode in which steps are executed, if it is not the intended one."""
    environment, starts = read_json(run.environment), read_starts(run)
    if isinstance(environment, dict) and starts and starts[-1].get("compile") != mode:
        write_json(run.environment, {**environment, "starts": [*starts[:-1], {**starts[-1], "compile": mode}]})


def _git_commit() -> str | None:
    """The commit of this checkout, marked if there are changes; None outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
