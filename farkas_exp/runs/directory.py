"""The run directory: the names of its files, its lock, and its state.

A run directory belongs to one identity and one seed. Tables, figures and the skipping of finished runs read nothing
else.
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
"""States of a run with a result. A run that diverged or made no progress has failed: a result, not a crash."""
DONE = (FINISHED, FAILED)
RUNNING, INTERRUPTED, CRASHED, EMPTY = "running", "interrupted", "crashed", "empty"
"""States of a run without a result."""
STATES = (FINISHED, FAILED, RUNNING, INTERRUPTED, CRASHED, EMPTY)


class RunBusy(UserError):  # noqa: N818 - a state of the world, not a defect
    """Another process holds the run's lock."""


class RunLost(Exception):  # noqa: N818 - a state of the world, not a defect
    """The run directory was moved, deleted or taken over by another process after this one locked it."""


class _File:
    """A file of a run directory: as an attribute of one, its path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunDirectory", owner: type["RunDirectory"]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run directory, one name each.

    Attributes:
        path: the folder.
        held: the run's lock, while this process has it (`locked`).
    """

    path: Path
    held: locks.Lock | None = field(default=None, compare=False, repr=False)

    record = _File("run.json")  # identity, seed, configuration and data
    config = _File("config.yaml")  # the recorded configuration, for people
    state = _File("state.json")  # how far the run is, rewritten every epoch
    metrics = _File("metrics.jsonl")  # a row an epoch
    table = _File("metrics.csv")  # the same rows, with `tracking=[csv]`
    events = _File("tensorboard")  # a folder, with `tracking=[tensorboard]`
    diagnostics = _File("diagnostics.jsonl")  # a row a measured epoch (`Measurements`)
    result = _File("result.json")  # the outcome; the run is done when it is there
    environment = _File("environment.json")  # the data's fingerprint, and each start's software and device
    checkpoint = _File("checkpoint.pt")  # the newest complete one
    previous_checkpoint = _File("checkpoint.previous.pt")  # the one before, should the newest be damaged
    log = _File("log.txt")
    error = _File("error.txt")  # the traceback of a crash
    lock = _File("lock")  # held while a process trains this run

    @contextmanager
    def locked(self) -> "Iterator[RunDirectory]":
        """Hold the run's advisory lock (`machine.locks`) within the block; yield the run directory with it.

        Raises:
            RunBusy: another process holds it; the message says which.
            UserError: a file of the run is a symbolic link.
        """
        lock = locks.take(self.lock)
        if lock is None:
            raise RunBusy(f"{self.path}: this run is being trained by {locks.holder(self.lock)}")
        with lock, last_words(lock.close):
            for file in (self.log, self.metrics, self.diagnostics, self.events):
                if file.is_symlink():
                    raise UserError(f"{file}: it is a symbolic link, which is not followed; remove it")
            yield replace(self, held=lock)

    def is_locked(self) -> bool:
        """Whether a living process trains this run."""
        return locks.is_held(self.lock)

    def is_own(self) -> bool:
        """Whether the folder is still the one that this process locked; True if it has locked none."""
        return self.held is None or self.held.is_own()

    def check_own(self) -> None:
        """Call this before each write.

        Raises:
            RunLost: this is not the folder that this process locked.
        """
        if not self.is_own():
            raise RunLost(
                f"{self.path}: moved, deleted or taken over while this process trained it; nothing more was written"
            )


def open_run(config: Config) -> RunDirectory:
    """The run directory of `config`; writes nothing."""
    return RunDirectory(run_path(config))


def write_state(run: RunDirectory, state: str, **facts: Any) -> None:
    """Rewrite `state.json`: the state, who wrote it and when, and `facts` such as epoch and test error."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
    write_json(run.state, {**facts, "state": state, **who})


def change_state(run: RunDirectory, state: str, **facts: Any) -> None:
    """Change the state in `state.json`, and keep the progress."""
    before = read_json(run.state)
    before = {key: value for key, value in before.items() if key != "state"} if isinstance(before, dict) else {}
    write_state(run, state, **{**before, **facts})
