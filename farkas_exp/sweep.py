"""One run or many: skip what is done, train what is not, keep every failure to its own run, and sum up at the end.

Imports no torch: the trainer is imported by the first run that has to train.
"""

import json
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from farkas_exp import runs
from farkas_exp.config import Config
from farkas_exp.errors import Interrupted, UserError

SKIPPED, BUSY, REFUSED, PASSED_OVER = "skipped", "busy", "refused", "passed over"
"""Outcomes beside the states of a run: done before, trained by another process, a user's mistake, not meant."""

OK, CRASH, USAGE, TO_BE_CONTINUED = 0, 1, 2, 75
"""Exit statuses; 75 is the system's EX_TEMPFAIL: try the same command again."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run of a command."""

    status: str
    path: str
    note: str = ""

    @property
    def exit_status(self) -> int:
        """The exit status of a command with this run alone. A run that failed to train is a result, not an error."""
        return {runs.CRASHED: CRASH, REFUSED: USAGE, runs.INTERRUPTED: TO_BE_CONTINUED, BUSY: TO_BE_CONTINUED}.get(
            self.status, OK
        )


def execute(config: Config) -> Outcome:
    """Bring one run to its end: skip it, continue it or train it.

    A crash is kept in the run directory (`error.txt`) and reported, not raised.

    Raises:
        UserError: a mistake in the configuration or the data; nothing of the run has been written over.
    """
    if config.only_for and not any(fnmatchcase(config.model.name, pattern) for pattern in config.only_for):
        return Outcome(PASSED_OVER, config.model.name, f"this regime is for {', '.join(config.only_for)}")
    run = runs.open_run(config)
    done = _standing(run, config)
    if done is not None:
        return done
    path = str(run.path)
    try:
        with run.locked():
            done = _standing(run, config)  # another process may have finished it while we waited
            if done is not None:
                return done
            from farkas_exp.train import train

            result = train(config, run)
        return Outcome(result["status"], path, _summary(result))
    except runs.RunBusy as busy:
        return Outcome(BUSY, path, str(busy))
    except Interrupted as stopped:
        return Outcome(runs.INTERRUPTED, path, str(stopped))
    except UserError:
        _remove_if_unused(run)
        raise
    except Exception as error:  # noqa: BLE001 - whatever happens in one run stays in that run
        return _crash(run, error)


def _standing(run: runs.RunDirectory, config: Config) -> Outcome | None:
    """The outcome of a run that needs no training, or None."""
    record = runs.read_run(run.path)
    if record is None:
        return None
    path = str(run.path)
    if record.state == runs.FINISHED:
        return Outcome(SKIPPED, path, f"done before: {_summary(record.result or {})}")
    if record.state == runs.FAILED and not config.retry_failed:
        return Outcome(
            SKIPPED, path, f"failed before: {_summary(record.result or {})}; retry_failed=true trains it again"
        )
    if record.state == runs.CRASHED and not config.retry_failed:
        note = f"crashed before: {record.progress.get('error', '')}; retry_failed=true continues it"
        return Outcome(runs.CRASHED, path, note)
    return None


def _summary(result: dict[str, Any]) -> str:
    if result.get("status") == runs.FAILED:
        return f"failed to train ({result.get('reason')}) after {result.get('epochs')} epochs"
    return f"test error {result.get('test_error', float('nan')):.2f} % after {result.get('epochs')} epochs"


def _crash(run: runs.RunDirectory, error: Exception) -> Outcome:
    note = f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        runs.write_text(run.error, traceback.format_exc())
        before = runs.read_json(run.state) or {}
        facts = {key: before.get(key) for key in ("epoch", "epochs", "test_error")}
        runs.write_state(run, runs.CRASHED, **facts, error=note)
    except OSError:
        traceback.print_exc()
        return Outcome(runs.CRASHED, str(run.path), note)
    return Outcome(runs.CRASHED, str(run.path), f"{note}; traceback in {run.error}")


def _remove_if_unused(run: runs.RunDirectory) -> None:
    """Take an empty run directory away again, so that a refused command leaves nothing behind."""
    if run.record.exists():
        return
    run.lock.unlink(missing_ok=True)
    for folder in (run.path, run.path.parent, run.path.parent.parent):
        try:
            folder.rmdir()
        except OSError:
            return


class SweepWatch(Callback):
    """Hydra callback: knows the sweep's folder, where each job leaves its outcome, also from another machine."""

    directory: Path | None = None
    started: float = 0.0
    experiment: str | None = None
    runs_dir: Path = Path("runs")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember where this sweep keeps its outcomes, and what it is for."""
        SweepWatch.directory = Path(config.hydra.sweep.dir)
        SweepWatch.experiment, SweepWatch.runs_dir = config.experiment, Path(config.runs_dir)
        SweepWatch.started = time.monotonic()


def record_outcome(directory: Path, number: int, overrides: Sequence[str], outcome: Outcome) -> None:
    """Leave the outcome of one job in the sweep's folder."""
    directory.mkdir(parents=True, exist_ok=True)
    runs.write_json(directory / f"job_{number}.json", {"overrides": list(overrides), **asdict(outcome)})


def read_outcomes(directory: Path) -> list[Outcome]:
    """The outcomes that the jobs of a sweep have left, in the order of the jobs."""
    files = sorted(directory.glob("job_*.json"), key=lambda p: int(p.stem.split("_")[1]))
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [Outcome(row["status"], row["path"], row["note"]) for row in rows]


def summarize(outcomes: Sequence[Outcome], seconds: float, arguments: Sequence[str]) -> int:
    """Print what became of a sweep and how to go on; return its exit status."""
    count = Counter(outcome.status for outcome in outcomes)
    order = (runs.FINISHED, SKIPPED, runs.FAILED, runs.INTERRUPTED, BUSY, runs.CRASHED, REFUSED)
    words = {runs.FAILED: "failed to train", BUSY: "busy elsewhere"}
    jobs = [outcome for outcome in outcomes if outcome.status != PASSED_OVER]
    parts = [f"{count[status]} {words.get(status, status)}" for status in order if count[status]]
    print(f"\n{len(jobs)} runs in {seconds:.1f} s: {', '.join(parts) or 'none'}")
    for outcome in outcomes:
        if outcome.status in (runs.CRASHED, REFUSED, BUSY):
            print(f"  {outcome.status}: {outcome.path}\n    {outcome.note}")
    command = "python -m farkas_exp " + shlex.join(arguments)
    if count[runs.CRASHED]:
        print(f"To try the crashed ones again: {command} retry_failed=true")
    elif count[runs.INTERRUPTED] or count[BUSY]:
        print(f"To go on: {command}")
    sys.stdout.flush()
    statuses = [outcome.exit_status for outcome in outcomes]
    return next((status for status in (CRASH, USAGE, TO_BE_CONTINUED) if status in statuses), OK)
