"""One run or many: skip what is done, train what is not, keep every failure to its own run, and sum up at the end.

Imports no torch: the trainer is imported by the first run that has to train.
"""

import errno
import itertools
import json
import shlex
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from farkas_exp import runs
from farkas_exp.config import Config, arms, parse
from farkas_exp.data.files.prints import Prints, check_same, prints
from farkas_exp.launch import workers
from farkas_exp.machine import distributed
from farkas_exp.machine.distributed import RankFailed
from farkas_exp.machine.errors import Interrupted, UserError
from farkas_exp.machine.files import write_text
from farkas_exp.machine.output import say, warn
from farkas_exp.machine.signals import free_to_leave, last_words
from farkas_exp.machine.terminal import printable
from farkas_exp.runs.measurements import Gap, Measurements, described
from farkas_exp.runs.query import ranked_error

SKIPPED, BUSY, REFUSED, DISK = "skipped", "busy", "refused", "file error"
LOST, PASSED_OVER = "without outcome", "passed over"
"""Outcomes beside the states of a run.

Done before; trained by another process; a user's mistake; a disk that is full, read-only or broken; a job that was not
begun or left nothing; a network that the arm is not for. A broken disk and a lost job say nothing about the run: the
same command continues it.
"""

OK, CRASH, USAGE, TO_BE_CONTINUED = 0, 1, 2, 75
"""Exit statuses; 75 is the system's EX_TEMPFAIL: try the same command again."""


ENDS_A_FAST_SWEEP = (runs.CRASHED, DISK, REFUSED)
"""The outcomes that end a sweep with fail_fast=true."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run of a command."""

    status: str
    path: str
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", printable(self.note))  # it may be the text of an error

    @property
    def exit_status(self) -> int:
        """The exit status of a command with this run alone. A run that failed to train is a result, not an error."""
        statuses = {runs.CRASHED: CRASH, DISK: CRASH, REFUSED: USAGE, runs.INTERRUPTED: TO_BE_CONTINUED}
        return {**statuses, BUSY: TO_BE_CONTINUED, LOST: TO_BE_CONTINUED}.get(self.status, OK)


def execute(config: Config) -> Outcome:
    """Bring one run to its end: skip it, continue it or train it.

    A crash is kept in the run directory (`error.txt`) and reported, not raised.

    Raises:
        UserError: a mistake in the configuration or the data; nothing of the run has been written over.
    """
    done = settled(config)
    if done is not None:
        return done
    run = runs.open_run(config)
    try:
        with run.locked() as run, last_words(partial(_remove_if_unused, run)):
            return _execute_locked(run, config)
    except runs.RunBusy as busy:
        return Outcome(BUSY, str(run.path), str(busy))
    except OSError as error:  # the lock is the first file that is written
        if (done := _standing(run, config)) is not None:
            return replace(done, note=f"{done.note}; not measured: {_disk_note(error)}")
        if error.errno in DISK_ERRNOS:
            return Outcome(DISK, str(run.path), _disk_note(error))
        raise UserError(f"runs_dir: cannot write to {error.filename or run.path}: {error.strerror}") from None


def _execute_locked(run: runs.RunDirectory, config: Config) -> Outcome:
    path = str(run.path)
    if run.result.exists():
        runs.write_record(run, config)  # in case it is lost; a finished run is none the worse for it
    done = _standing(run, config)  # another process may have finished it while we waited
    try:
        if done is not None:
            return _measured(run, config, done)
        with free_to_leave():
            from farkas_exp.training.session import train

        workers.call(distributed.current(), config)
        result = train(config, run)
        return Outcome(result["status"], path, _summary(result, config.dataset.evaluated_on))
    except Interrupted as stopped:
        return Outcome(runs.INTERRUPTED, path, str(stopped))
    except (UserError, KeyboardInterrupt, SystemExit):
        _remove_if_unused(run)
        raise
    except Exception as error:  # noqa: BLE001 - whatever happens in one run stays in that run
        return _failed(run, config, error)


def _failed(run: runs.RunDirectory, config: Config, error: Exception) -> Outcome:
    try:
        run.check_own()
    except runs.RunLost as lost:  # nothing may be written, also where this is but the cause of the error
        return Outcome(DISK, str(run.path), str(lost))
    except OSError as unreadable:
        error = unreadable
    if isinstance(error, OSError) and (error.errno in DISK_ERRNOS or _is_below(error.filename, str(run.path))):
        return _stop_for_disk(run, error)
    return _crash(run, config, error)


def settled(config: Config) -> Outcome | None:
    """The outcome of a run that needs neither training nor measuring, or None. Quick but for a listing of the data.

    Raises:
        UserError: it was trained on other data than are here now.
    """
    run = runs.open_run(config)
    done = _standing(run, config)
    if done is None or done.status != SKIPPED:
        return done
    measurable, _ = _unmeasured(run, config)
    return None if measurable else _with_gaps(run, config, done)


def _unmeasured(run: runs.RunDirectory, config: Config) -> tuple[list[Gap], list[Gap]]:
    """What a run that is done lacks of the measurements asked for: what can still be measured, and what cannot."""
    record = runs.read_run(run.path) if config.diagnostics.epochs else None
    return Measurements(run, config.diagnostics).left_by(record) if record else ([], [])


def _measured(run: runs.RunDirectory, config: Config, done: Outcome) -> Outcome:
    """The outcome of a run that is done, after what is asked for and can still be measured of it has been."""
    measurable, _ = _unmeasured(run, config)
    if done.status != SKIPPED or not measurable:
        return _with_gaps(run, config, done)
    from farkas_exp.training.measuring import measure_finished

    try:
        now = measure_finished(config, run)
    except UserError as error:
        return replace(done, note=f"{done.note}; not measured: {described(measurable)} ({error})")
    return _with_gaps(run, config, replace(done, note=f"{done.note}; measured now: {now or 'nothing'}"))


def _with_gaps(run: runs.RunDirectory, config: Config, done: Outcome) -> Outcome:
    """The outcome with a word on what is asked for and not measured."""
    if done.status != SKIPPED or not config.diagnostics.epochs:
        return done
    measurable, lost = _unmeasured(run, config)
    lacks = Measurements(run, config.diagnostics).unmeasured([*measurable, *lost], config.epochs)
    return replace(done, note=f"{done.note}; not measured: {lacks}") if lacks else done


def _standing(run: runs.RunDirectory, config: Config) -> Outcome | None:
    """What became of the run earlier, if that is the end of it, and if it was trained on the data that are here now.

    Raises:
        UserError: it was trained on other data.
    """
    record = runs.read_run(run.path)
    before = None if record is None else _earlier(record, config)
    if record is None or before is None:
        return None
    remark = check_same(record.data, prints(config.dataset, config.phases), config.dataset, run.path)
    return replace(before, note=f"{before.note}; {remark}") if remark else before


def _earlier(record: runs.RunRecord, config: Config) -> Outcome | None:
    path = str(record.path)
    if record.damage:
        warn(f"warning: {record.damage}; the run counts as not done")
    if record.state == runs.FINISHED:
        return Outcome(SKIPPED, path, f"done before: {_summary(record.result or {}, record.evaluated_on)}")
    if record.state == runs.FAILED and not config.retry_failed:
        return Outcome(
            SKIPPED,
            path,
            f"failed before: {_summary(record.result or {}, record.evaluated_on)}; retry_failed=true trains it again",
        )
    if record.state == runs.CRASHED and not config.retry_failed:
        note = f"crashed before: {record.progress.get('error', '')}; retry_failed=true continues it"
        return Outcome(runs.CRASHED, path, note)
    return None


def _summary(result: dict[str, Any], evaluated_on: str) -> str:
    if result.get("status") == runs.FAILED:
        return f"failed to train ({result.get('reason')}) after {result.get('epochs')} epochs"
    return f"{evaluated_on} error {result[f'{evaluated_on}_error']:.2f} % after {result.get('epochs')} epochs"


DISK_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
)
"""What the system says of a full, read-only, forbidden or broken disk."""


def _is_below(filename: Any, folder: str) -> bool:
    return isinstance(filename, str) and filename.startswith(folder)


def _disk_note(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}; put it right and give the same command again, it goes on from the last checkpoint"


def _stop_for_disk(run: runs.RunDirectory, error: OSError) -> Outcome:
    """The outcome of a run that could not write. Its state stays as it is, or becomes "interrupted" where it can."""
    with suppress(OSError):
        runs.change_state(run, runs.INTERRUPTED, error=_disk_note(error))
    return Outcome(DISK, str(run.path), _disk_note(error))


def _crash(run: runs.RunDirectory, config: Config, error: Exception) -> Outcome:
    failed = isinstance(error, RankFailed)  # its message says what the error was, and where
    note = str(error) if failed else f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        write_text(run.error, error.details if failed else traceback.format_exc())
        if not run.record.exists():
            runs.write_record(run, config, _prints_if_readable(config))
        runs.change_state(run, runs.CRASHED, error=note)
    except (OSError, UserError):
        warn(traceback.format_exc())
        return Outcome(runs.CRASHED, str(run.path), note)
    return Outcome(runs.CRASHED, str(run.path), f"{note}; traceback in {run.error}")


def _prints_if_readable(config: Config) -> Prints:
    with suppress(UserError):
        return prints(config.dataset, config.phases) or {}
    return {}


def _remove_if_unused(run: runs.RunDirectory) -> None:
    """Take an empty run directory away again, so that a refused command leaves nothing behind; the lock is held."""
    if run.record.exists() or not run.is_own():
        return
    if run.held is not None:
        run.held.remove()
    for folder in (run.path, run.path.parent, run.path.parent.parent):
        try:
            folder.rmdir()
        except OSError:
            return


@dataclass(frozen=True)
class Planned:
    """A run of a sweep before it begins: its configuration, or the outcome of one that its arm is not for."""

    config: Config | None
    outcome: Outcome | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Planned":
        """The run with these composed values.

        Raises:
            UserError: a mistake in them.
        """
        own, why_not = arms.of_run(values)
        if why_not is not None:  # before the check: the arm may set what this network does not have
            return cls(None, Outcome(PASSED_OVER, str(own["model"]["name"]), why_not))
        return cls(parse(own))

    def settled(self) -> Outcome | None:
        """Its outcome if nothing is left to do, else None; see `settled`."""
        return self.outcome if self.config is None else settled(self.config)

    def execute(self) -> Outcome:
        """Bring it to its end; see `execute`."""
        if self.config is None:
            assert self.outcome is not None
            return self.outcome
        return execute(self.config)

    def objective(self, outcome: Outcome) -> float | None:
        """What a search minimizes; see `objective`."""
        return None if self.config is None else objective(self.config, outcome)


@dataclass
class Sweep:
    """The sweep that this process leads or works for: what all of its runs share, decided once, at its beginning."""

    wanted: Path
    runs_dir: Path
    experiment: str | None = None
    fail_fast: bool = False
    started: float = field(default_factory=time.monotonic)
    repeated: int = 0

    @classmethod
    def of(cls, config: DictConfig) -> "Sweep":
        """The sweep of a command's configuration.

        Raises:
            UserError: its folder is none.
        """
        wanted = config.hydra.sweep.get("dir")
        if not isinstance(wanted, str) or not wanted.strip():
            raise UserError(f"hydra.sweep.dir: expected the name of a folder, got {wanted!r}")
        fail_fast = bool(config.get("fail_fast"))
        return cls(Path(wanted).absolute(), Path(str(config.runs_dir)), config.get("experiment"), fail_fast)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which must not make a folder of its own."""
        self.directory  # noqa: B018 - made now
        return dict(vars(self))

    @property
    def has_begun(self) -> bool:
        """Whether a job of it has left an outcome."""
        return "directory" in vars(self)

    @cached_property
    def directory(self) -> Path:
        """The folder where the jobs of this sweep leave their outcomes, made at its first use and nobody else's.

        It is hydra.sweep.dir where that is new, and otherwise a numbered folder in it.

        Raises:
            UserError: it cannot be made.
        """
        candidates = itertools.chain([self.wanted], (self.wanted / f"sweep_{n}" for n in itertools.count(2)))
        try:
            self.wanted.parent.mkdir(parents=True, exist_ok=True)
            for folder in candidates:
                with suppress(FileExistsError):
                    folder.mkdir()
                    return folder
        except OSError as error:
            raise UserError(f"runs_dir: cannot write to {error.filename or self.wanted}: {error.strerror}") from None
        raise AssertionError


class SweepWatch(Callback):
    """Hydra callback: says where the outcomes of a sweep are kept, and refuses what no sweep can do."""

    current: Sweep | None = None
    refusal: str | None = None
    known: ClassVar[dict[tuple[str, ...], Planned]] = {}
    """The runs of combinations of overrides that have been composed and not yet looked at."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the sweep.

        Raises:
            SystemExit: it is refused. Hydra turns any other exception of a callback into a warning.
        """
        try:
            SweepWatch.current = Sweep.of(config)
            SweepWatch.known.clear()
            if is_search(config.hydra.sweeper) and not _holds_out_images(config):
                raise UserError(NEEDS_VALIDATION)
            in_this_process = str(config.hydra.launcher.get("_target_")).endswith(
                ("SequentialLauncher", "BasicLauncher")
            )
            if distributed.current().are_several and not in_this_process:
                raise UserError(ONE_LAUNCHER)
        except (UserError, OmegaConfBaseException, AttributeError, TypeError) as error:
            SweepWatch.refusal = " ".join(str(error).split())
            raise SystemExit(USAGE) from None


NEEDS_VALIDATION = (
    "dataset.validation: 0 leaves a search nothing but the test set to choose on; hold out a part of the training set, "
    "for example dataset.validation=0.1"
)


ONE_LAUNCHER = (
    "hydra/launcher: this command is several processes already, which train one run after the other; leave the launcher"
    " (and packing) out, or start one process"
)


def is_search(sweeper: Any) -> bool:
    """Whether Hydra's sweeper chooses runs by the objective of those before, as Optuna's does; a grid does not."""
    return "optuna" in str(sweeper.get("_target_", "")).lower()


def _holds_out_images(config: DictConfig) -> bool:
    """Whether `dataset.validation` is given; a search over it is left to each run's own check."""
    given = [*(config.hydra.sweeper.get("params") or {}), *(item.split("=")[0] for item in config.hydra.overrides.task)]
    return config.dataset.get("validation") != 0 or "dataset.validation" in given


def objective(config: Config, outcome: Outcome) -> float | None:
    """What a search minimizes: the error in percent on the images held out of the training set, of a run with a result.

    A run that failed to train counts as chance. None for a run without a result, and for a run that has seen the test
    set: nothing is chosen on that.
    """
    if config.dataset.validation == 0 or outcome.status not in (runs.FINISHED, runs.FAILED, SKIPPED):
        return None
    record = runs.read_run(Path(outcome.path))
    return ranked_error(record) if record and record.result else None


def record_outcome(
    directory: Path, number: int, overrides: Sequence[str], outcome: Outcome, objective: float | None = None
) -> None:
    """Leave the outcome of one job in the sweep's folder."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"overrides": list(overrides), **asdict(outcome), "objective": objective}, indent=1)
        write_text(_outcome_file(directory, number), text + "\n")
    except OSError as error:
        warn(f"warning: {directory}: {error.strerror}; the sweep's summary will miss this run")


def _outcome_file(directory: Path, number: int) -> Path:
    return directory / f"job_{number}.json"


def read_outcome(directory: Path, number: int) -> dict[str, Any] | None:
    """What one job has left: overrides, status, path, note and objective; None where there is nothing that is whole."""
    row = runs.read_json(_outcome_file(directory, number))
    whole = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("status", "path", "note"))
    return row if whole else None


def _rows(directory: Path) -> list[dict[str, Any]]:
    names = [path.stem.removeprefix("job_") for path in directory.glob("job_*.json")]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    return [row for number in numbers if (row := read_outcome(directory, number)) is not None]


def read_outcomes(directory: Path) -> list[Outcome]:
    """The outcomes that the jobs of a sweep have left, in the order of the jobs."""
    return [_by_now(Outcome(row["status"], row["path"], row["note"])) for row in _rows(directory)]


def best_line(directory: Path) -> str | None:
    """The run of a sweep with the smallest error on held-out images, as a line; None for a sweep without such runs."""
    rows = [row for row in _rows(directory) if row.get("objective") is not None]
    if not rows:
        return None
    best = min(rows, key=lambda row: row["objective"])
    return (
        f"Best error on held-out images: {best['objective']:.2f} % with {' '.join(best['overrides'])} in {best['path']}"
    )


def _by_now(outcome: Outcome) -> Outcome:
    """The outcome at the end of the sweep: a run that was busy then may be done by now."""
    if outcome.status != BUSY:
        return outcome
    record = runs.read_run(Path(outcome.path))
    if record is None or record.result is None:
        return outcome
    summary = _summary(record.result, record.evaluated_on)
    return Outcome(SKIPPED, outcome.path, f"trained meanwhile by another process: {summary}")


@dataclass(frozen=True)
class Cut:
    """Why a sweep ended before its last job, and the exit status that follows from it alone."""

    reason: str
    status: int = TO_BE_CONTINUED


def summarize(
    outcomes: Sequence[Outcome], seconds: float, arguments: Sequence[str], cut: Cut | None = None, repeated: int = 0
) -> int:
    """Print what became of a sweep and how to go on; return its exit status.

    Args:
        outcomes: of its jobs.
        seconds: that it took.
        arguments: of the command.
        cut: why the sweep ended before its last job, or None.
        repeated: how many more combinations it had that say the same as another one.
    """
    count = Counter(outcome.status for outcome in outcomes)
    order = (runs.FINISHED, SKIPPED, runs.FAILED, runs.INTERRUPTED, BUSY, LOST, runs.CRASHED, DISK, REFUSED)
    words = {runs.FAILED: "failed to train", BUSY: "busy elsewhere"}
    jobs = [outcome for outcome in outcomes if outcome.status != PASSED_OVER]
    parts = [f"{count[status]} {words.get(status, status)}" for status in order if count[status]]
    say(f"\n{len(jobs)} run{'s' * (len(jobs) != 1)} in {seconds:.1f} s: {', '.join(parts) or 'none'}")
    if repeated:
        say(f"{repeated} combination{'s' * (repeated != 1)} given more than once: each was run once.")
    if cut:
        say(f"The sweep ended early: {cut.reason}; runs that it had not begun are not counted.")
    for outcome in outcomes:
        if outcome.status in (runs.CRASHED, DISK, REFUSED, BUSY, LOST):
            say(f"  {outcome.status}: {outcome.path}\n    {outcome.note}")
    statuses = [outcome.exit_status for outcome in outcomes] + ([cut.status] if cut else [])
    command = "python -m farkas_exp " + shlex.join(arguments)
    if count[runs.CRASHED]:
        retry = "" if "retry_failed=true" in arguments else " retry_failed=true"
        say(f"To try the crashed ones again: {command}{retry}")
    elif count[DISK] or TO_BE_CONTINUED in statuses:
        say(f"To go on: {command}")
    if outcomes and not jobs and not cut:
        say("Nothing was asked of a network that it is for.")
        return USAGE
    return next((status for status in (CRASH, USAGE, TO_BE_CONTINUED) if status in statuses), OK)
