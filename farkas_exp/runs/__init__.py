"""The run directory: its files, records and checkpoint, and the progress of a run (console, W&B).

Only `checkpoint` imports torch. The package can be called: `farkas_exp.runs("runs", model="resnet34")`.
"""

import sys
from os import PathLike
from types import ModuleType
from typing import Any

from farkas_exp.runs.collection import collect, faults, record_at, scan, survey
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
from farkas_exp.runs.found import Runs, Unreadable
from farkas_exp.runs.jsonfiles import finite, read_json, read_rows, write_json
from farkas_exp.runs.record import SCHEMA, RunRecord, note_end, read_data, read_run, read_starts, write_record

__all__ = [
    "CRASHED", "DONE", "EMPTY", "FAILED", "FINISHED", "INTERRUPTED", "RUNNING", "SCHEMA", "RunBusy", "RunDirectory",
    "RunLost", "RunRecord", "Runs", "Unreadable", "change_state", "collect", "faults", "finite", "note_end",
    "open_run", "read_data", "read_json", "read_rows", "read_run", "read_starts", "record_at", "scan", "survey",
    "write_json", "write_record", "write_state",
]  # fmt: skip


class _Package(ModuleType):
    def __call__(self, folder: str | PathLike[str] = "runs", **where: Any) -> Runs:
        """The runs below a folder, those of `where` (`Runs.where`).

        Raises:
            UserError: there is no such folder, or an unknown key or state.
        """
        return survey(folder).where(**where)


sys.modules[__name__].__class__ = _Package
