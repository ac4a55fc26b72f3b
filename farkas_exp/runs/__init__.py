"""The run directory: its files, records and checkpoint, and the progress of a run (console, W&B).

Only `checkpoint` imports torch. The package can be called: `farkas_exp.runs("runs", model="resnet34")` is
`runs.found.find`.
"""

import sys
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any

from farkas_exp.runs.collection import Survey, Unreadable, collect, faults, record_at, scan, survey
from farkas_exp.runs.directory import (
    CRASHED,
    DONE,
    EMPTY,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    RunBusy,
    RunDirectory,
    RunLost,
    change_state,
    open_run,
    write_state,
)
from farkas_exp.runs.jsonfiles import finite, read_json, read_rows, write_json
from farkas_exp.runs.record import SCHEMA, RunRecord, note_end, read_data, read_run, read_starts, write_record

__all__ = [
    "CRASHED", "DONE", "EMPTY", "FAILED", "FINISHED", "INTERRUPTED", "RUNNING", "SCHEMA", "RunBusy", "RunDirectory",
    "RunLost", "RunRecord", "Survey", "Unreadable", "change_state", "collect", "faults", "finite", "note_end",
    "open_run", "read_data", "read_json", "read_rows", "read_run", "read_starts", "record_at", "scan", "survey",
    "write_json", "write_record", "write_state",
]  # fmt: skip

if TYPE_CHECKING:
    from farkas_exp.runs.found import Runs


class _Package(ModuleType):
    def __call__(self, folder: str | PathLike[str] = "runs", **where: Any) -> "Runs":
        """The runs below a folder; see `runs.found.find`."""
        from farkas_exp.runs.found import find

        return find(folder, **where)


sys.modules[__name__].__class__ = _Package
