"""The outcomes of a command's runs: their exit status, and the files that keep them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farkas_exp import runs
from farkas_exp.machine.files import write_text
from farkas_exp.machine.output import warn
from farkas_exp.machine.signals import STATUS
from farkas_exp.machine.terminal import printable

# outcomes besides the states of a run
SKIPPED = "skipped"  # done before
BUSY = "busy"  # being trained by another process
REFUSED = "refused"  # a user's mistake
DISK = "file error"  # a full, read-only or broken disk; the same command continues the run
LOST = "without outcome"  # of a job that never began or left nothing; the same command continues the run
PASSED_OVER = "passed over"  # a network that the arm is not for

OK, CRASH, USAGE, TO_BE_CONTINUED = 0, 1, 2, STATUS
"""Exit statuses; the last means: give the same command again."""

UNWRITTEN = 74
"""The exit status of a launcher's job whose outcomes could not be written, the system's EX_IOERR."""


@dataclass(frozen=True)
class Meaning:
    """What an outcome means for its command or its sweep.

    Attributes:
        told: its name in the count of a sweep; empty if the run is simply done.
        exit_status: of a command with this run alone. A failed training is a result, not an error.
        named: whether the summary of a sweep names the run, with its note.
        ends_fast: whether it ends a sweep with fail_fast=true.
    """

    told: str = ""
    exit_status: int = OK
    named: bool = False
    ends_fast: bool = False


OUTCOMES = {
    runs.FINISHED: Meaning(),
    SKIPPED: Meaning(),
    runs.FAILED: Meaning("failed to train"),
    runs.INTERRUPTED: Meaning(runs.INTERRUPTED, TO_BE_CONTINUED),
    BUSY: Meaning("busy elsewhere", TO_BE_CONTINUED, named=True),
    LOST: Meaning(LOST, TO_BE_CONTINUED, named=True),
    runs.CRASHED: Meaning(runs.CRASHED, CRASH, named=True, ends_fast=True),
    DISK: Meaning(DISK, CRASH, named=True, ends_fast=True),
    REFUSED: Meaning(REFUSED, USAGE, named=True, ends_fast=True),
    PASSED_OVER: Meaning(),
}
"""In the order in which a sweep counts them; what is passed over is no run of it."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run of a command."""

    status: str
    path: str
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", printable(self.note))  # it may quote an error

    @property
    def exit_status(self) -> int:
        """The exit status of a command with this run alone."""
        return OUTCOMES[self.status].exit_status


def result_text(result: dict[str, Any], evaluated_on: str) -> str:
    """The result of a run in a few words."""
    if result.get("status") == runs.FAILED:
        return f"failed to train ({result.get('reason')}) after {result.get('epochs')} epochs"
    return f"{evaluated_on} error {result[f'{evaluated_on}_error']:.2f} % after {result.get('epochs')} epochs"


def record_outcome(
    directory: Path, number: int, overrides: Sequence[str], outcome: Outcome, objective: float | None = None
) -> None:
    """Write the outcome of one job into the sweep's folder; keep it in this process if that fails."""
    row = {"overrides": list(overrides), **asdict(outcome), "objective": objective}
    _unwritten.pop((directory, number), None)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(_outcome_file(directory, number), json.dumps(row, indent=1) + "\n")
    except OSError as error:
        _unwritten[directory, number] = (runs.read_json(_outcome_file(directory, number)), row)
        warn(f"warning: {directory}: {error.strerror}; the outcome of this run is not written there")


_unwritten: dict[tuple[Path, int], tuple[Any, dict[str, Any]]] = {}
"""Outcomes that the disk had no room for, with what their files held then.

A full disk is no reason to count a run as killed.
"""


def end_job() -> None:
    """End a launcher's job.

    Raises:
        SystemExit: an outcome could not be written, and nobody else would know.
    """
    if _unwritten:
        raise SystemExit(UNWRITTEN)


def _outcome_file(directory: Path, number: int) -> Path:
    return directory / f"job_{number}.json"


def read_outcome(directory: Path, number: int) -> dict[str, Any] | None:
    """The outcome file of a job: overrides, status, path, note and objective; None without a complete one."""
    row = runs.read_json(_outcome_file(directory, number))
    before, kept = _unwritten.get((directory, number), (None, row))
    if row == before:  # else another process has written since
        row = kept
    whole = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("status", "path", "note"))
    whole = whole and row["status"] in OUTCOMES
    return row if whole else None


def outcome_rows(directory: Path) -> list[dict[str, Any]]:
    """The outcome files of a sweep, in the order of its jobs; see `read_outcome`."""
    names = [path.stem.removeprefix("job_") for path in directory.glob("job_*.json")]
    numbers = {int(name) for name in names if name.isdecimal()} | {n for where, n in _unwritten if where == directory}
    return [row for number in sorted(numbers) if (row := read_outcome(directory, number)) is not None]


def read_outcomes(directory: Path) -> list[Outcome]:
    """The outcomes of a sweep, in the order of its jobs."""
    return [_by_now(Outcome(row["status"], row["path"], row["note"])) for row in outcome_rows(directory)]


def _by_now(outcome: Outcome) -> Outcome:
    """The outcome now: a run that was busy may be done by the end of the sweep."""
    if outcome.status != BUSY:
        return outcome
    record = runs.read_run(Path(outcome.path))
    if record is None or record.result is None:
        return outcome
    summary = result_text(record.result, record.evaluated_on)
    return Outcome(SKIPPED, outcome.path, f"trained meanwhile by another process: {summary}")
