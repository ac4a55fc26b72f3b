"""Execute one run: skip it if it is done, else continue or train it; a failure is an outcome, too.

Imports no torch until a run has to train.
"""

import errno
import traceback
from contextlib import suppress
from dataclasses import replace
from functools import partial

from farkas_exp import runs
from farkas_exp.config import Config
from farkas_exp.config.extensions import foreign_code
from farkas_exp.data.files.prints import Prints, check_same, prints
from farkas_exp.launch import workers
from farkas_exp.launch.outcomes import BUSY, DISK, SKIPPED, Outcome, result_text
from farkas_exp.machine import distributed
from farkas_exp.machine.errors import Interrupted, UserError, in_one_line
from farkas_exp.machine.files import write_text
from farkas_exp.machine.output import warn
from farkas_exp.machine.processes import RankFailed
from farkas_exp.machine.signals import free_to_leave, last_words
from farkas_exp.runs.measurements import Gap, Measurements, check_asked, described
from farkas_exp.runs.mirrors import unmirrored
from farkas_exp.runs.paths import SEED
from farkas_exp.runs.record import CONTRADICTION
from farkas_exp.runs.wandb import report_done


def execute(config: Config, title: str | None = None) -> Outcome:
    """Skip, continue or train one run; `title` is its name on the terminal, by default its slug and seed.

    A crash is written to `error.txt` of the run directory and reported, not raised.

    Raises:
        UserError: a mistake in the configuration or the data; nothing of the run was overwritten.
    """
    done = settled(config)
    if done is not None:
        if done.status == SKIPPED:
            report_done(config)
        return done
    run = runs.open_run(config)
    try:
        with run.locked() as run, last_words(partial(_remove_if_unused, run)):
            return _execute_locked(run, config, title)
    except runs.RunBusy as busy:
        return Outcome(BUSY, str(run.path), str(busy))
    except OSError as error:  # the lock is the first file to be written
        if (done := _standing(run, config)) is not None:
            return replace(done, note=f"{done.note}; not measured: {_disk_note(error)}")
        if error.errno in DISK_ERRNOS:
            return Outcome(DISK, str(run.path), _disk_note(error))
        raise UserError(f"runs_dir: cannot write to {error.filename or run.path}: {error.strerror}") from None


def _execute_locked(run: runs.RunDirectory, config: Config, title: str | None) -> Outcome:
    path = str(run.path)
    if run.result.exists():
        runs.write_record(run, config)  # in case it was lost
    done = _standing(run, config)  # another process may have finished it meanwhile
    try:
        if done is not None:
            return _measured(run, config, done)
        if (record := runs.read_run(run.path)) is not None and record.damage:
            warn(f"warning: {path}: {record.damage_note}")
        with free_to_leave():
            from farkas_exp.training.session import train

        workers.call(distributed.current(), config)
        result = train(config, run, title)
        return Outcome(result["status"], path, result_text(result, config.dataset.evaluated_on))
    except Interrupted as stopped:
        return Outcome(runs.INTERRUPTED, path, str(stopped))
    except (UserError, KeyboardInterrupt, SystemExit):
        _remove_if_unused(run)
        raise
    except Exception as error:  # noqa: BLE001 - one run must not end the others
        return _failed(run, config, error)


def _failed(run: runs.RunDirectory, config: Config, error: Exception) -> Outcome:
    try:
        run.check_own()
    except runs.RunLost as lost:  # write nothing more, whatever the error was
        return Outcome(DISK, str(run.path), str(lost))
    except OSError as unreadable:
        error = unreadable
    if isinstance(error, OSError) and (error.errno in DISK_ERRNOS or str(error.filename).startswith(str(run.path))):
        with suppress(OSError):
            runs.change_state(run, runs.INTERRUPTED, error=_disk_note(error))
        return Outcome(DISK, str(run.path), _disk_note(error))
    return _crash(run, config, error)


def settled(config: Config) -> Outcome | None:
    """The outcome of a run that needs neither training nor measuring, or None. Quick, except for listing the data.

    Raises:
        UserError: it was trained on other data than these.
    """
    run = runs.open_run(config)
    done = _standing(run, config)
    if done is None or done.status != SKIPPED:
        return done
    measurable, lost = _unmeasured(run, config)
    return None if measurable else _with_gaps(run, config, done, lost)


def _unmeasured(run: runs.RunDirectory, config: Config) -> tuple[list[Gap], list[Gap]]:
    """The requested measurements that a finished run lacks: those still possible, and the others."""
    check_asked(config.diagnostics)
    record = runs.read_run(run.path) if config.diagnostics.epochs else None
    return Measurements(run, config.diagnostics).left_by(record) if record else ([], [])


def _measured(run: runs.RunDirectory, config: Config, done: Outcome) -> Outcome:
    """Measure what a finished run lacks, as far as possible; return its outcome."""
    if done.status != SKIPPED:
        return done
    measurable, lost = _unmeasured(run, config)
    if measurable:
        from farkas_exp.training.measuring import measure_finished

        try:
            now = measure_finished(config, run)
        except UserError as error:
            return replace(done, note=f"{done.note}; not measured: {described(measurable)} ({error})")
        done = replace(done, note=f"{done.note}; measured now: {now or 'nothing'}")
        measurable, lost = _unmeasured(run, config)
    return _with_gaps(run, config, done, [*measurable, *lost])


def _with_gaps(run: runs.RunDirectory, config: Config, done: Outcome, gaps: list[Gap]) -> Outcome:
    """The outcome, with a note on what was requested but is missing."""
    if absent := unmirrored(config.tracking, run):
        done = replace(done, note=f"{done.note}; no {' and no '.join(absent)}: a mirror follows a run while it trains")
    lacks = Measurements(run, config.diagnostics).unmeasured(gaps, config.epochs)
    return replace(done, note=f"{done.note}; not measured: {lacks}") if lacks else done


def _standing(run: runs.RunDirectory, config: Config) -> Outcome | None:
    """The earlier outcome of the run, or None if there is something left to do."""
    record = runs.read_run(run.path)
    # the path ends in the hash and the seed by which it was found
    if record is not None and not str(run.path).endswith(f"-{record.identity}/{SEED}{record.seed}"):
        raise UserError(
            f"{run.record}: not the record of this run, but of {record.identity} seed {record.seed};"
            f" move {run.path} away"
        )
    before = None if record is None else _earlier(record, config)
    if record is None or before is None:
        return None
    remarks = (
        check_same(record.data, prints(config.dataset, config.phases), config.dataset, run.path),
        *_changed(run, config),
    )
    return replace(before, note="; ".join([before.note, *filter(None, remarks)]))


def _changed(run: runs.RunDirectory, config: Config) -> list[str]:
    """Which packages from outside have another code than when the run was trained last."""
    now = foreign_code(config)
    then = next(reversed(runs.read_starts(run)), {}).get("plugins") if now else None
    known = then if isinstance(then, dict) else {}
    return [f"trained with other code of {name}" for name in now if known.get(name, now[name]) != now[name]]


def _earlier(record: runs.RunRecord, config: Config) -> Outcome | None:
    path = str(record.path)
    if record.damage == CONTRADICTION:
        raise UserError(f"{path}: {CONTRADICTION}; restore what was changed, or move the run away to train afresh")
    if record.state == runs.FINISHED:
        return Outcome(SKIPPED, path, f"done before: {result_text(record.result or {}, record.evaluated_on)}")
    if record.state == runs.FAILED and not config.retry_failed:
        text = result_text(record.result or {}, record.evaluated_on)
        return Outcome(SKIPPED, path, f"failed before: {text}; retry_failed=true trains it again")
    if record.state == runs.CRASHED and not config.retry_failed:
        note = f"crashed before: {record.progress.get('error', '')}; retry_failed=true continues it"
        return Outcome(runs.CRASHED, path, note)
    return None


DISK_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
)
"""The errors of a full, read-only, forbidden or broken disk."""


def _disk_note(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}; mend it and give the same command again: it goes on from the last checkpoint"


def _crash(run: runs.RunDirectory, config: Config, error: Exception) -> Outcome:
    failed = isinstance(error, RankFailed)  # its message names the error and the process
    note = str(error) if failed else in_one_line(error)
    try:
        write_text(run.error, error.details if failed else "".join(traceback.format_exception(error)))
        if not run.record.exists():
            runs.write_record(run, config, _prints_if_readable(config))
        runs.change_state(run, runs.CRASHED, error=note)
    except (OSError, UserError):
        warn(traceback.format_exc())
        return Outcome(runs.CRASHED, str(run.path), note)
    return Outcome(runs.CRASHED, str(run.path), f"{note}; traceback in {run.error}")


def ended_for_memory(config: Config) -> Outcome | None:
    """Note that the system killed this run's process for want of memory: a crash if it did so before, at this step.

    None where the same command may try again.
    """
    try:
        with runs.open_run(config).locked() as run:
            again = runs.note_end(run, "out of memory")
            message = "killed by the system twice without a checkpoint in between; the run needs more memory"
            return _crash(run, config, MemoryError(message)) if again else None
    except (OSError, UserError):  # another process goes on with it, or the disk is full
        return None


def _prints_if_readable(config: Config) -> Prints:
    with suppress(UserError):
        return prints(config.dataset, config.phases) or {}
    return {}


def _remove_if_unused(run: runs.RunDirectory) -> None:
    """Remove an empty run directory, so that a refused command leaves nothing behind; the lock is held."""
    if run.record.exists() or not run.is_own():
        return
    if run.held is not None:
        run.held.remove()
    with suppress(OSError):
        for folder in (run.path, run.path.parent, run.path.parent.parent):
            folder.rmdir()
