"""The end of a sweep: a summary of its runs, how to go on, and the report of its experiment."""

import errno
import shlex
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from farkas_exp import runs
from farkas_exp.launch.outcomes import (
    CRASH,
    DISK,
    LOST,
    OK,
    OUTCOMES,
    PASSED_OVER,
    REFUSED,
    TO_BE_CONTINUED,
    USAGE,
    Outcome,
    outcome_rows,
    read_outcomes,
)
from farkas_exp.launch.sweep import Sweep
from farkas_exp.machine.errors import UserError, in_one_line
from farkas_exp.machine.files import write_text
from farkas_exp.machine.output import plural, say, warn
from farkas_exp.machine.signals import free_to_leave


@dataclass(frozen=True)
class Cut:
    """Why a sweep ended early, and the exit status for that alone."""

    reason: str
    status: int = TO_BE_CONTINUED


STOPPED, LOST_EACH_OTHER = "stopped by a signal", "its processes have lost each other"
"""Reasons for an early end."""

PASSING = (MemoryError, EOFError, ConnectionError, BrokenProcessPool)
PASSING_ERRNOS = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ETIMEDOUT})
"""Trouble of the machine that may have passed when the same command is given again."""


def failure_of_sweep(current: Sweep, error: Exception) -> Cut:
    """Why a launcher or search ended a sweep that had begun; write the traceback into the sweep's folder."""
    if isinstance(error, UserError):
        return Cut(str(error), USAGE)
    path = current.directory / "error.txt"
    with suppress(OSError):
        write_text(path, traceback.format_exc())
    passing = isinstance(error, PASSING) or (isinstance(error, OSError) and error.errno in PASSING_ERRNOS)
    # Optuna raises at the end of a search without a result, although its runs can be continued.
    left = any(outcome.exit_status == TO_BE_CONTINUED for outcome in read_outcomes(current.directory))
    reason = f"{in_one_line(error, 200)} ({path})"
    return Cut(reason, TO_BE_CONTINUED if passing or left else USAGE)


def end_of_sweep(current: Sweep, given: Sequence[str], cut: Cut | None, report: bool = True) -> int:
    """Summarize a sweep, show the report of its experiment, and return the exit status."""
    outcomes = read_outcomes(current.directory) if current.has_begun else []
    if cut and current.fail_fast and any(OUTCOMES[outcome.status].ends_fast for outcome in outcomes):
        cut = Cut("fail_fast=true")
    seconds = time.monotonic() - current.started
    status = summarize(outcomes, seconds, given, cut, current.repeated)
    if current.has_begun and (best := best_line(current.directory)):
        say(best)
    if current.experiment and report:
        _render(current.experiment, outcomes)
    return status


def summarize(
    outcomes: Sequence[Outcome], seconds: float, arguments: Sequence[str], cut: Cut | None = None, repeated: int = 0
) -> int:
    """Print the outcomes of a sweep and how to go on; return its exit status.

    `cut` says why the sweep ended early, and `repeated` is the number of combinations that repeat another one.
    """
    jobs = [outcome for outcome in outcomes if outcome.status != PASSED_OVER]
    count = Counter(outcome.status for outcome in jobs)
    parts = [f"{count[status]} {m.told or status}" for status, m in OUTCOMES.items() if count[status]]
    say(f"\n{plural(len(jobs), 'run')} in {seconds:.1f} s: {', '.join(parts) or 'none'}")
    if repeated:
        say(f"{plural(repeated, 'combination')} given more than once: each was run once.")
    if cut:
        say(f"The sweep ended early: {cut.reason}; runs not begun are not counted.")
    for outcome in outcomes:
        if OUTCOMES[outcome.status].named:
            say(f"  {outcome.status}: {outcome.path}\n    {outcome.note}")
    statuses = [outcome.exit_status for outcome in outcomes] + ([cut.status] if cut else [])
    command = "python -m farkas_exp " + shlex.join(arguments)
    if count[runs.CRASHED]:
        retry = "" if "retry_failed=true" in arguments else " retry_failed=true"
        say(f"To retry the crashed ones: {command}{retry}")
    elif count[DISK] or TO_BE_CONTINUED in statuses:
        say(f"To go on: {command}")
    if outcomes and not jobs and not cut:
        say("No arm is for any of these networks.")
        return USAGE
    return next((status for status in (CRASH, USAGE, TO_BE_CONTINUED) if status in statuses), OK)


def best_line(directory: Path) -> str | None:
    """A line with the smallest error on held-out images, over the seeds of a setting; None without such runs."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in outcome_rows(directory):
        if row.get("objective") is not None:
            setting = " ".join(word for word in row["overrides"] if not word.startswith("seed="))
            groups.setdefault(setting, []).append(row)
    if not groups:
        return None
    means = {setting: fmean(row["objective"] for row in rows) for setting, rows in groups.items()}
    setting = min(means, key=means.__getitem__)
    rows = groups[setting]
    over = f"mean of {len(rows)} seeds" if len(rows) > 1 else f"in {rows[0]['path']}"
    chosen = f" with {setting}" if setting else ""  # only the seed varies
    return f"Best error on held-out images: {means[setting]:.2f} %{chosen} ({over})"


def _render(experiment: str, outcomes: Sequence[Outcome]) -> None:
    """Show the report of an experiment on the runs so far; an error in the report does not fail the sweep."""
    paths: dict[Path, list[Path]] = {}
    for outcome in outcomes:
        path = Path(outcome.path)
        if outcome.status not in (PASSED_OVER, REFUSED, LOST) and path.is_dir():  # else it may be the run's overrides
            paths.setdefault(path.parent.parent, []).append(path)
    try:
        with free_to_leave():
            from farkas_exp.report.command import render_experiment

            for runs_dir, own in paths.items():
                for path in render_experiment(experiment, runs_dir, own):
                    say(str(path))
    except UserError as error:
        warn(f"no report: {error}")
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - the runs are done, whatever happens here
        warn(f"no report: {in_one_line(error)}".removesuffix(": "))
