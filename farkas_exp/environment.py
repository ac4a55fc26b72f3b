"""What a run was trained with: versions, device, commit and data, in its directory."""

import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from farkas_exp import __version__
from farkas_exp.config import Config
from farkas_exp.cores import cores
from farkas_exp.data import DataInfo
from farkas_exp.errors import UserError
from farkas_exp.layers import native_library
from farkas_exp.runs import RunDirectory, read_json, write_json
from farkas_exp.trainer import Trainer


def check_same_data(run: RunDirectory, info: DataInfo) -> None:
    """Refuse to go on with other data than the run began with.

    Raises:
        UserError: the fingerprint differs.
    """
    before = read_json(run.environment)
    fingerprint = before.get("data", {}).get("fingerprint") if isinstance(before, dict) else None
    if fingerprint not in (None, info.fingerprint):
        raise UserError(
            f"dataset: {info.name} is not the data this run began with (fingerprint {info.fingerprint}, was "
            f"{fingerprint}); restore it, or give the new data another dataset.label, or move {run.path} away"
        )


def write_environment(run: RunDirectory, config: Config, trainer: Trainer) -> None:
    """What decides the last digits and the speed of this run: versions, device, threads, processes, commit, data."""
    device, info = trainer.device, trainer.data.info
    write_json(
        run.environment,
        {
            "farkas_exp": __version__,
            "commit": _git_commit(),
            "command": shlex.join(sys.argv),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "host": platform.node(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "device_type": device.type,
            "threads": torch.get_num_threads(),
            "world_size": trainer.processes.world_size,
            "cuda": torch.version.cuda if device.type == "cuda" else None,
            "precision": config.precision,
            "compile": trainer.mode,
            "native_conv": device.type == "cpu" and native_library.available(),
            "channels_last": config.channels_last,
            "data": {
                "name": info.name,
                "train": info.train_size,
                "test": info.test_size,
                "fingerprint": info.fingerprint,
            },
        },
    )


def correct_mode(run: RunDirectory, mode: str) -> None:
    """Write down the mode that the steps are executed in, where it is not the one that was meant."""
    environment = read_json(run.environment)
    if isinstance(environment, dict) and environment.get("compile") != mode:
        write_json(run.environment, {**environment, "compile": mode})


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from, marked where it has been changed; None outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """The processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {cores()} cores"
