"""The run directory: the names of its files, its state, and how it is read back.

A run directory belongs to one identity and one seed. Everything that is said about a run afterwards (tables, figures,
the skipping of finished runs) is read from here. This module imports no torch: a table of 48 finished runs is
recognised without it.
"""

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import yaml

from farkas_exp.config import Config, to_dict
from farkas_exp.errors import UserError
from farkas_exp.identity import identify, run_path

SCHEMA = 1

FINISHED, FAILED = "finished", "failed"
"""States of a run with a result. A failed run has diverged or made no progress: a result, not a crash."""
RUNNING, INTERRUPTED, CRASHED, EMPTY = "running", "interrupted", "crashed", "empty"
"""States of a run without a result."""


class RunBusy(UserError):  # noqa: N818 - a state of the world, not a defect
    """Another process holds the run's lock."""


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run directory, one name each."""

    path: Path

    @property
    def record(self) -> Path:
        """Identity, seed and configuration (`run.json`)."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """The resolved configuration for people."""
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
        """Versions, device, git commit, data fingerprint."""
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
    def locked(self) -> Iterator[None]:
        """Hold the run's advisory lock.

        Raises:
            RunBusy: another process holds it; the message says which.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.lock, "a+", encoding="utf-8") as handle:
            if not _lock(handle):
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise RunBusy(f"{self.path}: this run is being trained by {holder}")
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a living process trains this run."""
        try:
            with open(self.lock, encoding="utf-8") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def _lock(handle: TextIO) -> bool:
    """Take the lock if nobody trains the run; a reader that looks at the lock holds it for a moment only."""
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.02)
    return False


def open_run(config: Config) -> RunDirectory:
    """The run directory of `config`, nothing written yet."""
    return RunDirectory(run_path(config))


def write_record(run: RunDirectory, config: Config) -> dict[str, Any]:
    """Write `run.json` and `config.yaml` of a new run, or read those of a run to be continued.

    Raises:
        UserError: the directory holds a run of another identity or a damaged record.
    """
    identity = identify(config)
    if run.record.exists():
        record = read_json(run.record)
        if not isinstance(record, dict) or record.get("identity") != identity.hash or record.get("seed") != config.seed:
            raise UserError(f"{run.record}: not the record of this run; move {run.path} away to train it afresh")
        return record
    record = {
        "schema": SCHEMA,
        "identity": identity.hash,
        "slug": identity.slug,
        "seed": config.seed,
        "wandb_id": f"{identity.hash}-s{config.seed}-{uuid.uuid4().hex[:6]}",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": to_dict(config),
    }
    write_text(run.config, yaml.safe_dump(record["config"], sort_keys=False))
    write_json(run.record, record)
    return record


def write_state(run: RunDirectory, state: str, **facts: Any) -> None:
    """Rewrite `state.json`: the state, who wrote it and when, and `facts` such as epoch and test error."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
    write_json(run.state, {"state": state, **facts, **who})


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: to a temporary name in the same folder, then in place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all. A number that is not finite is written as null."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with every number that JSON cannot hold (NaN, infinities) replaced by None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_json(path: Path) -> Any:
    """The JSON value in `path`, or None where there is no such file or no valid JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file up to the first line that is torn or no JSON object; empty without a file."""
    rows: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return rows
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


@dataclass(frozen=True)
class RunRecord:
    """What a run directory says about its run."""

    path: Path
    identity: str
    slug: str
    seed: int
    config: dict[str, Any]
    state: str
    epoch: int
    epochs: int
    result: dict[str, Any] | None
    progress: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per finished epoch."""
        return read_rows(RunDirectory(self.path).metrics)

    def diagnostics(self) -> list[dict[str, Any]]:
        """The rows of `diagnostics.jsonl`."""
        return read_rows(RunDirectory(self.path).diagnostics)


def read_run(path: Path) -> RunRecord | None:
    """The record of one run directory, or None where there is none."""
    run = RunDirectory(path)
    record = read_json(run.record)
    if not isinstance(record, dict) or not {"identity", "seed", "config"} <= record.keys():
        return None
    result, progress = read_json(run.result), read_json(run.state)
    result = result if isinstance(result, dict) and result.get("status") in (FINISHED, FAILED) else None
    progress = progress if isinstance(progress, dict) else {}
    state = result["status"] if result else progress.get("state", EMPTY)
    if state == RUNNING and not run.is_locked():
        state = INTERRUPTED
    epochs = int(record["config"].get("epochs", 0))
    epoch = int((result or {}).get("epochs", progress.get("epoch", 0)) or 0)
    return RunRecord(
        path, record["identity"], record.get("slug", path.parent.name), int(record["seed"]), record["config"], state,
        epoch, epochs, result, progress,
    )  # fmt: skip


def collect(runs_dir: str | Path) -> list[RunRecord]:
    """All runs below `runs_dir`, by identity and seed. Folders that hold no run are passed over.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        raise UserError(f"runs_dir: no folder {root}; train something first or give the right runs_dir=...")
    records = []
    with os.scandir(root) as identities:
        for identity in identities:
            if identity.is_dir() and not identity.name.startswith("."):
                with os.scandir(identity.path) as seeds:
                    paths = [Path(s.path) for s in seeds if s.name.startswith("seed_") and s.is_dir()]
                records += [record for path in paths if (record := read_run(path)) is not None]
    return sorted(records, key=lambda r: (r.slug, r.identity, r.seed))
