"""What the launchers share: groups of `runs_per_job` runs, a process for each group, outcomes read from files."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.config import Config
from farkas_exp.config.composition import Compositions
from farkas_exp.launch import outcomes
from farkas_exp.launch.execution import ended_for_memory, settled
from farkas_exp.launch.outcomes import LOST, Outcome
from farkas_exp.launch.planned import objective, planned
from farkas_exp.launch.sweep import Sweep, SweepWatch
from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.machine.output import say
from farkas_exp.machine.signals import StopRequest


@dataclass(frozen=True)
class Run:
    """One combination of overrides of a sweep, and its number in it."""

    number: int
    overrides: tuple[str, ...]


Group = tuple[Run, ...]
"""The runs that one job trains, one after the other."""


@dataclass
class Work:
    """What a process needs to run a part of a sweep; pickled into it."""

    context: HydraContext
    config: DictConfig
    task_function: TaskFunction
    sweep: Sweep
    singletons: dict[Any, Any] = field(default_factory=Singleton.get_state)


def numbered(job_overrides: Sequence[Sequence[str]], first: int) -> list[Run]:
    """The runs of a batch of overrides, numbered from `first` on."""
    return [Run(first + index, tuple(overrides)) for index, overrides in enumerate(job_overrides)]


def groups(all_runs: Sequence[Run], runs_per_job: int) -> list[Group]:
    """Split the runs of a sweep into jobs of `runs_per_job`, in their order."""
    return [tuple(all_runs[i : i + runs_per_job]) for i in range(0, len(all_runs), runs_per_job)]


def whole_number(settings: Mapping[str, Any], key: str, least: int, default: int | None = None) -> int:
    """The setting `hydra.launcher.<key>`; null is the default, if there is one."""
    value = default if settings[key] is None else settings[key]
    if type(value) is not int or value < least:
        raise UserError(f"hydra.launcher.{key}: expected a whole number of at least {least}, got {value!r}")
    return value


def run_group(work: Work, group: Group, stop: StopRequest, *, shared_terminal: bool = False) -> None:
    """Train the runs of one job, until a stop is requested. Call this in a process of its own.

    With a `shared_terminal` other jobs print there too, which would garble a live line.
    """
    Singleton.set_state(work.singletons)
    setup_globals()
    SweepWatch.current = work.sweep
    for run in group:
        if stop.requested:
            return
        try:
            run_one(work, run, shared_terminal=shared_terminal)
        except SystemExit:  # interrupted, or crashed with fail_fast=true; the outcome is written
            return


def run_one(work: Work, run: Run, *, shared_terminal: bool = False) -> None:
    """Train one run in this process, and leave its outcome in the sweep's folder.

    Raises:
        SystemExit: it was stopped, or it crashed with fail_fast=true.
    """
    composed = work.context.config_loader.load_sweep_config(work.config, list(run.overrides))
    with open_dict(composed):
        composed.hydra.job.id = f"{composed.hydra.job.name}_{run.number}"
        composed.hydra.job.num = run.number
        composed.hydra.sweep.dir = str(work.sweep.directory)  # one for all, whatever this run's runs_dir is
        composed.hydra.sweep.subdir = "."
    if shared_terminal and composed.get("progress") in ("auto", "live"):
        composed.progress = "plain"
    HydraConfig.instance().set_config(composed)
    done = run_job(
        hydra_context=work.context, config=composed, task_function=work.task_function,
        job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
    )  # fmt: skip
    if done.status == JobStatus.FAILED:  # before the task could write one
        _record(work, run, Outcome(outcomes.REFUSED, _name(run), message_of(done._return_value)))


def skip_done(work: Work, all_runs: Iterable[Run]) -> list[Run]:
    """The runs that still have something to train; write the outcomes of the others here, without a process.

    Raises:
        HydraException: a run does not compose; nothing is written.
        SystemExit: one of them crashed before, with fail_fast=true (status 75).
    """
    compositions = Compositions(work.context.config_loader, work.config)
    every = [(run, _planned(compositions, run)) for run in all_runs]
    left, statuses = [], []
    for run, plan in every:
        done = plan if isinstance(plan, Outcome) else None
        if isinstance(plan, Config):
            with suppress(UserError):  # reported by its own process
                done = settled(plan)
        if done is None:
            left.append(run)
            continue
        statuses.append(done.status)
        say(f"{done.status}: {done.path} ({done.note})")
        _record(work, run, done, objective(plan, done) if isinstance(plan, Config) else None)
        if work.sweep.fail_fast and outcomes.OUTCOMES[done.status].ends_fast:
            raise SystemExit(outcomes.TO_BE_CONTINUED)
    if line := work.sweep.tally.begin(statuses):
        say(line)
    return left


def tell_ended(work: Work, ended: Iterable[Run], running: int = 0) -> None:
    """Say how far the sweep is, now that these runs have ended and so many are running."""
    rows = [_row(work, run) for run in ended]
    if line := work.sweep.tally.add([row["status"] if row else LOST for row in rows], running):
        say(line)


def _planned(compositions: Compositions, run: Run) -> Config | Outcome | None:
    """A composed run (`planned`), or None for one that its own process has to refuse."""
    if run.overrides in SweepWatch.known:
        return SweepWatch.known.pop(run.overrides)
    try:
        return planned(compositions.values(run.overrides))
    except (UserError, OmegaConfBaseException):
        return None


def _name(run: Run) -> str:
    return " ".join(run.overrides)


def _record(work: Work, run: Run, outcome: Outcome, objective: float | None = None) -> None:
    outcomes.record_outcome(work.sweep.directory, run.number, run.overrides, outcome, objective)


def _row(work: Work, run: Run) -> dict[str, Any] | None:
    return outcomes.read_outcome(work.sweep.directory, run.number)


def mark_died(work: Work, group: Group, note: str, status: str, *, for_memory: bool) -> bool:
    """`mark_open` for a job that died; return whether it may be tried again.

    A run that the system killed `for_memory` has crashed if it was killed so before, at the same step.
    """
    if for_memory:
        run = left(work, group)[0]
        plan = _planned(Compositions(work.context.config_loader, work.config), run)
        if isinstance(plan, Config) and (crash := ended_for_memory(plan)):
            _record(work, run, crash)
    mark_open(work, group, note, status)
    return not for_memory or bool(left(work, group))


def mark_open(work: Work, group: Iterable[Run], note: str, status: str = LOST) -> None:
    """Record why these runs have no outcome yet; keep any that is there."""
    for run in left(work, group):
        _record(work, run, Outcome(status, _name(run), note))


def left(work: Work, group: Iterable[Run]) -> list[Run]:
    """The runs that have not ended in this sweep, in whatever way."""
    rows = [(run, _row(work, run)) for run in group]
    return [run for run, row in rows if row is None or row["status"] == LOST]


def crashed(work: Work, all_runs: Iterable[Run]) -> bool:
    """Whether one of the runs crashed or was refused: the end of a sweep with fail_fast=true."""
    rows = [_row(work, run) for run in all_runs]
    return any(row is not None and outcomes.OUTCOMES[row["status"]].ends_fast for row in rows)


def returns(work: Work, all_runs: Iterable[Run]) -> list[JobReturn]:
    """What Hydra's sweepers expect: each run's objective, None without a result."""
    answers = []
    for run in all_runs:
        row = _row(work, run) or {}
        answer = JobReturn(overrides=list(run.overrides), status=JobStatus.COMPLETED)
        answer.return_value = row.get("objective")
        answers.append(answer)
    return answers
