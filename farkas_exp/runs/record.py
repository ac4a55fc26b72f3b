"""The record of a run: written once, and read back with the other files of its directory. Imports no torch."""

import os
import time
import typing
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from farkas_exp.config import Config, recorded
from farkas_exp.config.identity import identify
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import write_text
from farkas_exp.runs.directory import EMPTY, FAILED, FINISHED, INTERRUPTED, RUNNING, STATES, RunDirectory
from farkas_exp.runs.jsonfiles import count, is_altered, read_json, read_last_row, read_rows, sealed, write_json

SCHEMA = 1
"""Version of `run.json`."""


def write_record(run: RunDirectory, config: Config, data: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Write `run.json` and `config.yaml` of a new run, or read the record of one to be continued.

    `data` are the known fingerprints of its training files (`data.files.prints`).
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
        "wandb_id": agent_run() or f"{identity.hash}-s{config.seed}-{uuid.uuid4().hex[:6]}",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": dict(data or {}),
        "config": recorded(config),
    }
    record = sealed(record)
    write_text(run.config, yaml.safe_dump(record["config"], sort_keys=False))
    write_json(run.record, record)
    return record


def write_result(run: RunDirectory, record: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write `result.json` of the run with this record: the run is done."""
    write_json(run.result, sealed({**result, "run": name_of(record)}))


def name_of(record: Mapping[str, Any]) -> str:
    """How a checkpoint and a result name their run."""
    return f"{record['identity']} seed {record['seed']}"


def agent_run(environment: Mapping[str, str] = os.environ) -> str | None:
    """The id that the agent of a W&B sweep gave to the run of this process, or None without an agent.

    W&B then takes that id, whatever else it is told.
    """
    return environment.get("WANDB_RUN_ID") or None if environment.get("WANDB_SWEEP_ID") else None


@dataclass(frozen=True)
class RunRecord:
    """What a run directory says about its run.

    `data` are the fingerprints of its training files (`data.files.prints`): runs of one identity are the same
    experiment only if these agree (`told_apart`). Empty for data that a name fully describes, and for older records.
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
    """What is wrong with the run's files, so that it counts as not done; empty if nothing is."""

    @property
    def damage_note(self) -> str:
        """`damage`, and what follows from it; empty if nothing is wrong."""
        return f"{self.damage}; the run counts as not done" if self.damage else ""

    @property
    def evaluated_on(self) -> str:
        """The evaluation set: "test", or "validation" if part of the training set is held out.

        Its figures in `result`, `progress` and `metrics()` begin with this word.
        """
        return evaluated_on(self.config)

    def key(self, name: str) -> str:
        """The name of a figure of the evaluation set: `key("error")` is `test_error` or `validation_error`."""
        return f"{self.evaluated_on}_{name}"

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per finished epoch, up to the first that is missing or damaged.

        Empty if a run with a result has lost some of them, or if they may be another run's.
        """
        found = [] if self.damage == CONTRADICTION else read_rows(RunDirectory(self.path).metrics)
        in_place = takewhile(lambda pair: pair[1].get("epoch") == pair[0], enumerate(found, 1))
        rows = [by_evaluation_set(row, self.evaluated_on) for _, row in in_place]
        if "epochs" in (self.result or {}) and len(rows) != self.epoch:
            return []  # the last one would be taken for the end
        return rows

    def diagnostics(self) -> list[dict[str, Any]]:
        """The rows of `diagnostics.jsonl`."""
        return read_rows(RunDirectory(self.path).diagnostics)


CONTRADICTION = "metrics.jsonl and result.json contradict each other"
"""The damage of a run of which nobody can say which figures are its own: it is not trained further."""


def read_run(path: Path) -> RunRecord | None:
    """The record of a run directory, or None if it has no readable one."""
    folder = os.fspath(path)  # called ten thousand times in a row: no Path for each file
    record = read_json(f"{folder}/run.json")
    if not _is_record(record):
        return None
    on = evaluated_on(record["config"])
    has_result = os.path.lexists(f"{folder}/result.json")  # before it is read: it may be written in between
    result, progress = read_json(f"{folder}/result.json") if has_result else None, read_json(f"{folder}/state.json")
    damage = _damage(record, result, f"{folder}/metrics.jsonl") if has_result else ""
    if isinstance(result, dict) and not damage:  # run and checksum have been checked
        result = by_evaluation_set({key: result[key] for key in result if key not in ("run", "checksum")}, on)
    else:
        result = None
    progress = by_evaluation_set(progress, on) if isinstance(progress, dict) else {}
    state = result["status"] if result else progress.get("state")
    if result is None and state in (RUNNING, FINISHED, FAILED):  # the last two: stopped while it wrote its result
        state = RUNNING if RunDirectory(path).is_locked() else INTERRUPTED
    elif state not in STATES:
        state = EMPTY
    slug = record.get("slug")
    return RunRecord(
        path, record["identity"], slug if isinstance(slug, str) else path.parent.name, record["seed"],
        record["config"], state, count((result or {}).get("epochs", progress.get("epoch"))),
        count(record["config"].get("epochs")), result, progress,
        record.get("data", {}), damage,
    )  # fmt: skip


def evaluated_on(config: dict[str, Any]) -> str:
    """The evaluation set of a nested configuration; see `RunRecord.evaluated_on`."""
    dataset = config.get("dataset")
    return "validation" if isinstance(dataset, dict) and dataset.get("validation") else "test"


def by_evaluation_set(figures: dict[str, Any], evaluated_on: str) -> dict[str, Any]:
    """The figures of a run, named by its evaluation set; older versions called all of them `test_...`."""
    if evaluated_on == "test":
        return figures
    prefixes = ("test_", "best_test_")
    return {
        key.replace("test_", f"{evaluated_on}_") if key.startswith(prefixes) else key: value
        for key, value in figures.items()
    }


def read_data(run: RunDirectory) -> dict[str, Any]:
    """What the environment of a run says of its data; empty without it."""
    environment = read_json(run.environment)
    data = environment.get("data") if isinstance(environment, dict) else None
    return data if isinstance(data, dict) else {}


def read_starts(run: RunDirectory) -> list[dict[str, Any]]:
    """The environment of each start of a run, in order; older versions kept only the last."""
    environment = read_json(run.environment)
    if not isinstance(environment, dict):
        return []
    starts = environment.get("starts")
    if isinstance(starts, list):
        return [start for start in starts if isinstance(start, dict)]
    return [{key: value for key, value in environment.items() if key != "data"}]


def note_end(run: RunDirectory, how: str) -> bool:
    """Note how the last start ended; return whether the one before ended so, too, at the same step.

    A start that ended before it recorded its environment, as while it loaded data, counts as part of the one before.
    """
    environment, starts = read_json(run.environment), read_starts(run) or [{"epoch": 0, "step": 0}]
    *before, last = [(start.get("epoch"), start.get("step"), start.get("ended")) for start in starts[-2:]]
    again = last[2] == how or before == [(*last[:2], how)]
    known = environment if isinstance(environment, dict) else {}
    write_json(run.environment, {**known, "starts": [*starts[:-1], {**starts[-1], "ended": how}]})
    return again


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.get("schema") == SCHEMA
        and not is_altered(record)
        and isinstance(record.get("identity"), str)
        and type(record.get("seed")) is int
        and isinstance(record.get("config"), dict)
        and _fits(record["config"], _kinds())
        and isinstance(data := record.get("data", {}), dict)
        and all(isinstance(value, str) for value in data.values())
    )


def _damage(record: dict[str, Any], result: Any, metrics: str) -> str:
    """What is wrong with the outcome of a run, or with its `metrics` beside it; empty if nothing is."""
    if not _is_result(result) or not _is_length(result, record["config"].get("epochs")):
        return "result.json is damaged"
    if is_altered(result) or result.get("run", name_of(record)) != name_of(record):
        return "result.json is damaged, changed by hand or another run's"
    on = evaluated_on(record["config"])
    if result["status"] == FINISHED and by_evaluation_set(result, on).get(f"{on}_error") is None:
        return "result.json is damaged"
    last = read_last_row(metrics) if "checksum" in result else None  # without one nothing tells which is right
    epochs = count(result.get("epochs"))
    if last is None or count(last.get("epoch")) < epochs:
        return ""  # lost, or torn
    shared = [key for key in last if key in result and key.endswith(("error", "loss"))]
    alike = last.get("epoch") == epochs and all(last[key] == result[key] for key in shared)
    return "" if alike else CONTRADICTION


def _is_length(result: dict[str, Any], epochs: Any) -> bool:
    """Whether a run of so many epochs can have ended as this result says."""
    done = result.get("epochs", epochs)
    return type(epochs) is not int or done == epochs or (result["status"] == FAILED and 0 <= count(done) <= epochs)


def _is_result(result: Any) -> bool:
    """Whether this is an outcome with possible errors (in percent)."""
    if not isinstance(result, dict) or result.get("status") not in (FINISHED, FAILED):
        return False
    errors = [value for key, value in result.items() if "error" in key and value is not None]
    return all(type(error) in (int, float) and 0 <= error <= 100 + 1e-6 for error in errors)


_Kinds = dict[str, "tuple[type, ...] | _Kinds"]


@cache
def _kinds(schema: Any = Config) -> _Kinds:
    """The JSON types at each key of the schema, or those of a group's keys."""
    return {f.name: _kinds(f.type) if is_dataclass(f.type) else _types(f.type) for f in fields(schema)}


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
    """Whether each value has the type of the schema; unknown keys may have any."""
    for key, value in config.items():
        kind = kinds.get(key)
        if isinstance(kind, dict):
            if not isinstance(value, dict) or not _fits(value, kind):
                return False
        elif kind is not None and type(value) not in kind:
            return False
    return True
