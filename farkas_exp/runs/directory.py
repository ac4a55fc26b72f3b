"""The run directory: the names of its files, its state, and how it is read back.

A run directory belongs to one identity and one seed. Everything that is said about a run afterwards (tables, figures,
the skipping of finished runs) is read from here. This module imports no torch: a table of 48 finished runs is
recognised without it.
"""

import json
import math
import os
import socket
import stat
import time
import typing
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from farkas_exp.config import Config, to_dict
from farkas_exp.config.identity import identify
from farkas_exp.machine import locks
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import write_text
from farkas_exp.machine.signals import last_words
from farkas_exp.runs.paths import run_path

SCHEMA = 1

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


def write_record(run: RunDirectory, config: Config, data: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Write `run.json` and `config.yaml` of a new run, or read those of a run to be continued.

    `data` are the fingerprints of the files that it is trained on (`data.files.prints`), as far as they are known.

    Raises:
        UserError: the directory holds a run of another identity or a damaged record.
    """
    identity = identify(config)
    if run.record.exists():
        record = read_json(run.record)
        expected = {"identity": identity.hash, "seed": config.seed}
        if not _is_record(record) or "wandb_id" not in record or not expected.items() <= record.items():
            raise UserError(
                f"{run.record}: damaged, or not the record of this run;"
                f" restore it, or move {run.path} away to train afresh"
            )
        return record
    record = {
        "schema": SCHEMA,
        "identity": identity.hash,
        "slug": identity.slug,
        "seed": config.seed,
        "wandb_id": f"{identity.hash}-s{config.seed}-{uuid.uuid4().hex[:6]}",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": dict(data or {}),
        "config": to_dict(config),
    }
    write_text(run.config, yaml.safe_dump(record["config"], sort_keys=False))
    write_json(run.record, record)
    return record


def write_state(run: RunDirectory, state: str, **facts: Any) -> None:
    """Rewrite `state.json`: the state, who wrote it and when, and `facts` such as epoch and test error."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
    write_json(run.state, {**facts, "state": state, **who})


def change_state(run: RunDirectory, state: str, **facts: Any) -> None:
    """Rewrite `state.json` with another state, leaving what it says of the progress."""
    before = read_json(run.state)
    before = {key: value for key, value in before.items() if key != "state"} if isinstance(before, dict) else {}
    write_state(run, state, **{**before, **facts})


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


LARGEST_JSON, LARGEST_ROWS = 16 * 2**20, 256 * 2**20
"""How many bytes a JSON file and a JSONL file may have: far more than any run writes."""
DEEPEST = 32
"""How deep the values of a record may be nested."""


def read_json(path: str | Path) -> Any:
    """The JSON value in `path`, or None where there is no file that can be read, or no valid JSON in it.

    Numbers that are not finite are None. Never waits: not on a pipe or a device, nor for the end of a file.
    """
    content = _content(path, LARGEST_JSON)
    return None if content is None else parse_json(content)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file up to the first line that is torn or no JSON object; empty without a file.

    Like `read_json`, it never waits.
    """
    rows: list[dict[str, Any]] = []
    for line in (_content(path, LARGEST_ROWS) or b"").splitlines(keepends=True):
        row = parse_json(line) if line.endswith(b"\n") else None
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def parse_json(content: bytes) -> Any:
    """The JSON value of `content`, or None where it is not valid, too deep, or null. Numbers are finite or None."""
    try:
        value = _DECODER.decode(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if _is_shallow(value) else None


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        containers = [each for each in level if isinstance(each, (dict, list))]
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return True
    return False


def _content(path: str | Path, most: int) -> bytes | None:
    """The bytes of a regular file of at most `most` bytes; None for anything else."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
            return None
        parts, left = [], most + 1  # a file of /proc has no size, and perhaps no end
        while left and (part := os.read(handle, min(left, 2**20))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts) if left else None
    except OSError:
        return None
    finally:
        os.close(handle)


def _whole(digits: str) -> int | float | None:
    return int(digits) if len(digits) <= 40 else _real(digits)


def _real(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_real, parse_constant=lambda name: None)


@dataclass(frozen=True)
class RunRecord:
    """What a run directory says about its run.

    `data` are the fingerprints of the files that it was trained on (`data.files.prints`): runs of one identity are the
    same experiment only where these agree (`told_apart`). Empty for data that their name alone tells, and for older
    records.
    """

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
    data: dict[str, str] = field(default_factory=dict)
    damage: str = ""
    """What is wrong with a file of the run that is there and cannot be used; empty where all is well."""

    @property
    def evaluated_on(self) -> str:
        """The set that the run is evaluated on: "test", or "validation" where part of the training set is held out.

        Its figures in `result`, `progress` and `metrics()` begin with this word, also in the files of older versions.
        """
        return evaluated_on(self.config)

    def key(self, name: str) -> str:
        """What a figure of the evaluation set is called: `key("error")` is `test_error` or `validation_error`."""
        return f"{self.evaluated_on}_{name}"

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per finished epoch."""
        return [by_evaluation_set(row, self.evaluated_on) for row in read_rows(RunDirectory(self.path).metrics)]

    def diagnostics(self) -> list[dict[str, Any]]:
        """The rows of `diagnostics.jsonl`."""
        return read_rows(RunDirectory(self.path).diagnostics)


def read_run(path: Path) -> RunRecord | None:
    """The record of one run directory, or None where there is none that can be read."""
    folder = os.fspath(path)  # this is called ten thousand times in a row: no Path for each file
    record = read_json(f"{folder}/run.json")
    if not _is_record(record):
        return None
    result, progress = read_json(f"{folder}/result.json"), read_json(f"{folder}/state.json")
    result = by_evaluation_set(result, evaluated_on(record["config"])) if _is_result(result) else None
    progress = by_evaluation_set(progress, evaluated_on(record["config"])) if isinstance(progress, dict) else {}
    damage = ""
    if result is None or (
        result["status"] == FINISHED and result.get(f"{evaluated_on(record['config'])}_error") is None
    ):
        result, damage = None, f"{folder}/result.json: damaged" if os.path.lexists(f"{folder}/result.json") else ""
    state = result["status"] if result else progress.get("state")
    if result is None and state in (RUNNING, FINISHED, FAILED):  # the last two: stopped while it wrote its result
        state = RUNNING if RunDirectory(path).is_locked() else INTERRUPTED
    elif state not in STATES:
        state = EMPTY
    slug = record.get("slug")
    return RunRecord(
        path, record["identity"], slug if isinstance(slug, str) else path.parent.name, record["seed"],
        record["config"], state, _count((result or {}).get("epochs", progress.get("epoch"))),
        _count(record["config"].get("epochs")), result, progress,
        record.get("data", {}), damage,
    )  # fmt: skip


def evaluated_on(config: dict[str, Any]) -> str:
    """The set that a run of this nested configuration is evaluated on; see `RunRecord.evaluated_on`."""
    dataset = config.get("dataset")
    return "validation" if isinstance(dataset, dict) and dataset.get("validation") else "test"


def by_evaluation_set(figures: dict[str, Any], evaluated_on: str) -> dict[str, Any]:
    """The figures of a run under the names of its evaluation set; older versions called all of them `test_...`."""
    if evaluated_on == "test":
        return figures
    prefixes = ("test_", "best_test_")
    return {
        key.replace("test_", f"{evaluated_on}_") if key.startswith(prefixes) else key: value
        for key, value in figures.items()
    }


def read_starts(run: RunDirectory) -> list[dict[str, Any]]:
    """The environment of each start of a run, the last one last; older versions kept only that of the last start."""
    environment = read_json(run.environment)
    if not isinstance(environment, dict):
        return []
    starts = environment.get("starts")
    if isinstance(starts, list):
        return [start for start in starts if isinstance(start, dict)]
    return [{key: value for key, value in environment.items() if key != "data"}]


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.get("schema") == SCHEMA
        and isinstance(record.get("identity"), str)
        and type(record.get("seed")) is int
        and isinstance(record.get("config"), dict)
        and _fits(record["config"], _kinds())
        and _are_prints(record.get("data", {}))
    )


def _are_prints(data: Any) -> bool:
    return isinstance(data, dict) and all(isinstance(value, str) for value in data.values())


def _is_result(result: Any) -> bool:
    """Whether this is an outcome, with errors (in percent) that can be some."""
    if not isinstance(result, dict) or result.get("status") not in (FINISHED, FAILED):
        return False
    errors = [value for key, value in result.items() if "error" in key and value is not None]
    return all(type(error) in (int, float) and 0 <= error <= 100 + 1e-6 for error in errors)


_Kinds = dict[str, "tuple[type, ...] | _Kinds"]


@cache
def _kinds(schema: Any = Config) -> _Kinds:
    """What JSON may have at each key of the schema: its types, or those of the group's keys."""
    hints = typing.get_type_hints(schema)
    return {name: _kinds(hint) if is_dataclass(hint) else _types(hint) for name, hint in hints.items()}


def _types(hint: Any) -> tuple[type, ...]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return tuple(kind for part in parts for kind in _types(part))
    if origin is typing.Literal:
        return tuple({type(part) for part in parts})
    if origin in (tuple, list):
        return (list,)
    return (int, float) if hint is float else (hint,)


def _fits(config: dict[str, Any], kinds: _Kinds) -> bool:
    """Whether each value has a type of the schema. Keys that the schema does not know may have any."""
    for key, value in config.items():
        kind = kinds.get(key)
        if isinstance(kind, dict):
            if not isinstance(value, dict) or not _fits(value, kind):
                return False
        elif kind is not None and type(value) not in kind:
            return False
    return True


def _count(value: Any) -> int:
    return value if type(value) is int else 0


@dataclass(frozen=True)
class Unreadable:
    """Something below `runs_dir` that is, or may be, a run, or a part of one, and cannot be read."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path} ({self.why})"


@dataclass(frozen=True)
class Survey:
    """All runs below a folder, by identity and seed, and what could not be read."""

    records: list[RunRecord]
    unreadable: list[Unreadable]


def survey(runs_dir: str | Path) -> Survey:
    """Read all runs below `runs_dir`. Folders that hold no run are passed over.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    records, unreadable = [], []
    for path in scan(runs_dir):
        record = read_run(path)
        records += [record] if record else []
        unreadable += faults(path, record)
    records = told_apart(records)
    return Survey(
        sorted(records, key=lambda r: (r.slug, r.identity, r.seed)), sorted(unreadable, key=lambda u: str(u.path))
    )


def told_apart(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs, where those of one identity were trained on different data: as different experiments, which they are.

    Their identities get an addition and their configurations a key `data`, so that nothing that groups by either takes
    them for repetitions. A run whose data are unknown is taken for one on the data of the others, if these are one.
    """
    known: dict[str, set[str]] = {}
    for record in records:
        if record.data:
            known.setdefault(record.identity, set()).add(_data_name(record))
    mixed = {identity for identity, names in known.items() if len(names) > 1}
    return [
        replace(
            record, identity=f"{record.identity}+{_data_name(record)}",
            config={**record.config, "data": _data_name(record)},
        )
        if record.identity in mixed
        else record
        for record in records
    ]  # fmt: skip


def _data_name(record: RunRecord) -> str:
    return "+".join(record.data[what][:8] for what in sorted(record.data)) or "unknown"


def collect(runs_dir: str | Path) -> list[RunRecord]:
    """The runs below `runs_dir` that can be read, by identity and seed; see `survey`."""
    return survey(runs_dir).records


def faults(path: Path, record: RunRecord | None) -> list[Unreadable]:
    """What cannot be read of the run directory `path`, whose record is `record`; nothing where there is no run."""
    if record is not None:
        again = read_run(path) if record.damage else None  # it may have been written just now
        if again is not None and again.damage:
            return [Unreadable(path, "result.json is damaged; the run counts as not done")]
        return []
    try:
        names = set(os.listdir(path))
    except OSError as error:
        return [Unreadable(path, f"it cannot be read: {error.strerror}")]
    if not names & {"run.json", "state.json", "metrics.jsonl", "result.json", "checkpoint.pt"}:
        return []
    return [Unreadable(path, "run.json is damaged, or of another version" if "run.json" in names else "no run.json")]


def scan(runs_dir: str | Path) -> Iterator[Path]:
    """The seed folders below `runs_dir`, in no order, whether they hold a readable run or not.

    What cannot be looked into, such as a link to nowhere, is yielded as it is.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    root = Path(runs_dir)
    try:
        identities = _subfolders(root, "")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"runs_dir: no folder {root}; train something first or give the right runs_dir=...") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"runs_dir: {root} cannot be read: {reason}") from None
    for identity in identities:
        try:
            yield from _subfolders(identity, "seed_")
        except FileNotFoundError:
            if identity.is_symlink():
                yield identity
        except OSError:
            yield identity


def _subfolders(folder: Path, prefix: str) -> list[Path]:
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if entry.name.startswith(prefix) and not entry.name.startswith(".")]
        return [folder / entry.name for entry in named if _may_be_folder(entry)]


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True
