"""The run directory: the names of its files, its lock, and its state.

A run directory belongs to one identity and one seed. Everything that is said about a run afterwards (tables, figures,
the skipping of finished runs) is read from here.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from farkas_exp.config import Config
from farkas_exp.machine import locks
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.signals import last_words
from farkas_exp.runs.jsonfiles import read_json, write_json
from farkas_exp.runs.paths import run_path

FINISHED, FAILED = "finished", "failed"
"""States of a run with a result. A failed run has diverged or made no progress: a result, not a crash."""
RUNNING, INTERRUPTED, CRASHED, EMPTY = "running", "interrupted", "crashed", "empty"
"""States of a run without a result."""
STATES = (FINISHED, FAILED, RUNNING, INTERRUPTED, CRASHED, EMPTY)


class RunBusy(UserError):  # noqa: N818 - a state of the world, not a defect
    """Another process holds the run's lock."""


class RunLost(Exception):  # noqa: N818 - a state of the world, not a defect
    """The run directory is not where this process locked it: moved, deleted, or taken over by another process."""


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run directory, one name each.

    Attributes:
        path: of the folder.
        held: the run's lock, while this process has it (`locked`).
    """

    path: Path
    held: locks.Lock | None = field(default=None, compare=False, repr=False)

    @property
    def record(self) -> Path:
        """Identity, seed, configuration and data (`run.json`)."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """The recorded configuration for people."""
        return self.path / "config.yaml"

    @property
    def state(self) -> Path:
        """How far the run is, rewritten every epoch."""
        return self.path / "state.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def diagnostics(self) -> Path:
        """One JSON line per measurement of dead units, dead points and margins."""
        return self.path / "diagnostics.jsonl"

    @property
    def result(self) -> Path:
        """The outcome; its presence means that the run is done."""
        return self.path / "result.json"

    @property
    def environment(self) -> Path:
        """The data's fingerprint; and of each start its versions, device, threads and git commit (`read_starts`)."""
        return self.path / "environment.json"

    @property
    def checkpoint(self) -> Path:
        """The newest complete checkpoint."""
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before it, for the case that the newest one is damaged."""
        return self.path / "checkpoint.previous.pt"

    @property
    def log(self) -> Path:
        """Plain progress lines."""
        return self.path / "log.txt"

    @property
    def error(self) -> Path:
        """The traceback of a crash."""
        return self.path / "error.txt"

    @property
    def lock(self) -> Path:
        """Held by the process that trains this run, and by the system only as long as that process lives."""
        return self.path / "lock"

    @contextmanager
    def locked(self) -> "Iterator[RunDirectory]":
        """Hold the run's advisory lock (`machine.locks`) in the block, which gets the run directory with its lock.

        Raises:
            RunBusy: another process holds it; the message says which.
            UserError: a file of the run is a symbolic link.
        """
        lock = locks.take(self.lock)
        if lock is None:
            raise RunBusy(f"{self.path}: this run is being trained by {locks.holder(self.lock)}")
        with lock, last_words(lock.close):
            for file in (self.log, self.metrics, self.diagnostics):
                if file.is_symlink():
                    raise UserError(f"{file}: it is a symbolic link, which is not followed; remove it")
            yield replace(self, held=lock)

    def is_locked(self) -> bool:
        """Whether a living process trains this run."""
        return locks.is_held(self.lock)

    def is_own(self) -> bool:
        """Whether the folder is still the one that this process locked; always, if it locked none."""
        return self.held is None or self.held.is_own()

    def check_own(self) -> None:
        """To be called before each write.

        Raises:
            RunLost: this is not the folder that this process locked.
        """
        if not self.is_own():
            raise RunLost(
                f"{self.path}: moved, deleted or taken over while this process trained the run, which it stops; nothing"
                " more was written"
            )


def open_run(config: Config) -> RunDirectory:
    """The run directory of `config` (`run_paths`), nothing written yet."""
    return RunDirectory(run_path(config))


def write_state(run: RunDirectory, state: str, **facts: Any) -> None:
    """Rewrite `state.json`: the state, who wrote it and when, and `facts` such as epoch and test error."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
    write_json(run.state, {**facts, "state": state, **who})


def change_state(run: RunDirectory, state: str, **facts: Any) -> None:
    """Rewrite `state.json` with another state, leaving what it says of the progress."""
    before = read_json(run.state)
    before = {key: value for key, value in before.items() if key != "state"} if isinstance(before, dict) else {}
    write_state(run, state, **{**before, **facts})
