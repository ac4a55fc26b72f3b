"""What the launchers share: runs in groups of `runs_per_job`, one process for each group, outcomes read from files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from farkas_exp import sweep
from farkas_exp.config import parse
from farkas_exp.errors import UserError
from farkas_exp.signals import StopRequest
from farkas_exp.sweep import LOST, Outcome


@dataclass(frozen=True)
class Run:
    """One combination of overrides of a sweep, and its number in it."""

    number: int
    overrides: tuple[str, ...]


Group = tuple[Run, ...]
"""The runs that one job trains, one after the other."""


@dataclass
class Work:
    """What a process needs to run a part of a sweep; it is pickled into the process."""

    context: HydraContext
    config: DictConfig
    task_function: TaskFunction
    singletons: dict[Any, Any] = field(default_factory=Singleton.get_state)

    @property
    def directory(self) -> Path:
        """The sweep's folder, where the outcomes are."""
        return Path(self.config.hydra.sweep.dir)

    @property
    def fail_fast(self) -> bool:
        """Whether a crash ends the sweep."""
        return bool(self.config.get("fail_fast"))


def numbered(job_overrides: Sequence[Sequence[str]], first: int) -> list[Run]:
    """The runs of a batch of overrides, numbered from `first` on."""
    return [Run(first + index, tuple(overrides)) for index, overrides in enumerate(job_overrides)]


def groups(all_runs: Sequence[Run], runs_per_job: int) -> list[Group]:
    """Split the runs of a sweep into jobs of `runs_per_job`, in their order.

    Neighbours, such as the seeds of one arm, take about the same time, so the jobs come out unequal where the arms
    are; each run is in exactly one job.
    """
    return [tuple(all_runs[i : i + runs_per_job]) for i in range(0, len(all_runs), runs_per_job)]


def whole_number(settings: Mapping[str, Any], key: str, least: int) -> int:
    """The setting `hydra.launcher.<key>`.

    Raises:
        UserError: it is not a whole number of at least `least`.
    """
    value = settings[key]
    if type(value) is not int or value < least:
        raise UserError(f"hydra.launcher.{key}: expected a whole number of at least {least}, got {value!r}")
    return value


def run_group(work: Work, group: Group, stop: StopRequest, *, shared_terminal: bool = False) -> None:
    """Train the runs of one job, until one of them is told to stop. To be called in a process of its own.

    Args:
        work: what they need.
        group: the runs.
        stop: of this process; asked for between two runs as well.
        shared_terminal: other jobs print there as well, so a live line would be torn.
    """
    Singleton.set_state(work.singletons)
    setup_globals()
    for run in group:
        if stop.requested:
            return
        try:
            done = _run(work, run, shared_terminal)
        except SystemExit:  # interrupted, or a crash with fail_fast=true; the outcome is written
            return
        if done.status == JobStatus.FAILED:  # before the task could write one
            error = " ".join(str(done._return_value).split())
            sweep.record_outcome(work.directory, run.number, run.overrides, Outcome(sweep.REFUSED, _name(run), error))


def _run(work: Work, run: Run, shared_terminal: bool) -> JobReturn:
    composed = _composed(work, run)
    if shared_terminal and composed.get("progress") in ("auto", "live"):
        composed.progress = "plain"
    HydraConfig.instance().set_config(composed)
    return run_job(
        hydra_context=work.context, config=composed, task_function=work.task_function,
        job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
    )  # fmt: skip


def _composed(work: Work, run: Run) -> DictConfig:
    composed = work.context.config_loader.load_sweep_config(work.config, list(run.overrides))
    with open_dict(composed):
        composed.hydra.job.id = f"{composed.hydra.job.name}_{run.number}"
        composed.hydra.job.num = run.number
    return composed


def skip_done(work: Work, all_runs: Iterable[Run]) -> list[Run]:
    """The runs that still have something to train; the outcomes of the others are written here, without a process.

    Raises:
        SystemExit: one of them has crashed before, and fail_fast=true (status 75).
    """
    left = []
    for run in all_runs:
        composed = _composed(work, run)
        keys = [str(key) for key in composed if key != "hydra"]
        try:
            values = OmegaConf.to_container(OmegaConf.masked_copy(composed, keys), resolve=True)
            config = parse(cast(dict[str, Any], values))
            done = sweep.settled(config)
        except (UserError, OmegaConfBaseException):  # its own process says so
            left.append(run)
            continue
        if done is None:
            left.append(run)
            continue
        print(f"{done.status}: {done.path} ({done.note})", flush=True)
        sweep.record_outcome(work.directory, run.number, run.overrides, done, sweep.objective(config, done))
        if work.fail_fast and done.status in sweep.ENDS_A_FAST_SWEEP:
            raise SystemExit(sweep.TO_BE_CONTINUED)
    return left


def _name(run: Run) -> str:
    return " ".join(run.overrides)


def mark_open(work: Work, group: Iterable[Run], note: str) -> None:
    """Say that these runs have no outcome (yet), and why; an outcome that is there stays."""
    for run in group:
        if not has_outcome(work, run):
            sweep.record_outcome(work.directory, run.number, run.overrides, Outcome(LOST, _name(run), note))


def has_outcome(work: Work, run: Run) -> bool:
    """Whether the run has come to an end of any kind in this sweep."""
    row = sweep.read_outcome(work.directory, run.number)
    return row is not None and row["status"] != LOST


def crashed(work: Work, all_runs: Iterable[Run]) -> bool:
    """Whether one of the runs has crashed or was refused: the end of a sweep with fail_fast=true."""
    rows = [sweep.read_outcome(work.directory, run.number) for run in all_runs]
    return any(row is not None and row["status"] in sweep.ENDS_A_FAST_SWEEP for row in rows)


def returns(work: Work, all_runs: Iterable[Run]) -> list[JobReturn]:
    """What Hydra's sweepers want to know: each run's objective, None for a run without a result."""
    answers = []
    for run in all_runs:
        row = sweep.read_outcome(work.directory, run.number) or {}
        answer = JobReturn(overrides=list(run.overrides), status=JobStatus.COMPLETED)
        answer.return_value = row.get("objective")
        answers.append(answer)
    return answers
