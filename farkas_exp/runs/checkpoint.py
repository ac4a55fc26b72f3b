"""Checkpoints: written whole or not at all; the last good one stays until the next is complete."""

import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import replacing
from farkas_exp.runs import RunDirectory
from farkas_exp.runs.record import name_of

SCHEMA = 1

T = TypeVar("T")

_UNREADABLE = (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile)
"""The errors of a truncated or foreign file."""


def save(run: RunDirectory, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one before it stays as `checkpoint.previous.pt`.

    A process killed at any moment leaves at least one complete checkpoint, if there was one before.
    """
    _write(run, {"schema": SCHEMA, **state}, run.previous_checkpoint)


def _write(run: RunDirectory, state: dict[str, Any], earlier: Path | None) -> None:
    with replacing(run.checkpoint, keep=earlier) as handle:
        try:
            torch.save(state, handle)
        except RuntimeError as error:  # what torch makes of a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


WITH_WEIGHTS = ("schema", "run", "state", "model", "methods")
"""What a network can be loaded and measured from; the rest is needed to train on."""


def has_weights_only(saved: dict[str, Any]) -> bool:
    """Whether a checkpoint holds the weights without what training needs to go on."""
    return "optimizer" not in saved


def keep(run: RunDirectory, what: str) -> None:
    """Keep all, the weights, or none of the checkpoint of a run that is done."""
    if what == "all":
        return
    damaged: list[str] = []
    saved = load(run, warn=damaged.append) if what == "weights" else None
    if damaged:
        raise UserError(f"{run.checkpoint}: truncated, or no checkpoint")
    if saved is not None and not has_weights_only(saved):
        _write(run, {key: saved[key] for key in WITH_WEIGHTS if key in saved}, None)
    for path in (run.previous_checkpoint, *([run.checkpoint] if what == "none" else [])):
        path.unlink(missing_ok=True)


def training_bytes(run: RunDirectory) -> int:
    """The bytes of the checkpoint's tensors that are needed only to train on; 0 if it cannot be read."""
    try:
        saved = torch.load(run.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return sum(map(_bytes, (saved[key] for key in saved if key not in WITH_WEIGHTS)))
    except (*_UNREADABLE, TypeError):
        return 0


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_bytes, inner))


def load(run: RunDirectory, warn: Callable[[str], object] = lambda line: None) -> dict[str, Any] | None:
    """The newest complete checkpoint, on the CPU, or None. Loading executes no code.

    `warn` is called with one line for each checkpoint that cannot be used.
    """
    there = [path for path in (run.checkpoint, run.previous_checkpoint) if path.exists()]
    for path in there:
        state = _read(path)
        if state is None:
            left = "going on from the one before it" if path is not there[-1] else "there is none before it"
            warn(f"{path}: truncated, or no checkpoint; {left}")
            continue
        if state.get("schema") != SCHEMA:
            raise UserError(
                f"{path}: checkpoint format {state.get('schema')}, expected {SCHEMA}; move it away to start afresh"
            )
        return state
    return None


def load_of(run: RunDirectory, record: dict[str, Any]) -> dict[str, Any] | None:
    """The newest complete checkpoint of the run with this record, or None; warn of a damaged one."""
    saved = load(run, warn=lambda line: print(f"warning: {line}", file=sys.stderr, flush=True))
    if saved is not None and saved.get("run") != name_of(record):
        raise UserError(f"{run.checkpoint}: a checkpoint of another run ({saved.get('run')}); move it away")
    return saved


def restoring(run: RunDirectory, restore: Callable[[], T]) -> T:
    """Call `restore`, which loads the run's checkpoint, and return its result."""
    try:
        return restore()
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{run.checkpoint}: does not fit this version's network ({reason}); move {run.path} away to train afresh"
        ) from None


def remove_stray_files(run: RunDirectory) -> None:
    """Delete the half-written files of a killed process; only for the holder of the run's lock."""
    for path in run.path.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of a foreign file, which is refused anyway
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch.load does not look at the checksums
                    return None
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE:
        return None  # truncated or foreign: the previous one is tried
    return state if isinstance(state, dict) else None
