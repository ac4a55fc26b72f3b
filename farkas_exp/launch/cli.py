"""The command line: Hydra composes, the schema checks, `sweep.execute` runs; a mistake is one line and status 2.

Imports no torch, so that `--help`, `--cfg job` and the skipping of finished runs answer at once.
"""

import errno
import importlib.util
import os
import sys
import time
import traceback
import typing
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from farkas_exp import runs
from farkas_exp.config import arms, parse
from farkas_exp.config.help import choices, help_text
from farkas_exp.config.store import config_dir, tell_hydra
from farkas_exp.config.texts import keep_texts
from farkas_exp.data.files import prints
from farkas_exp.launch import sweep, workers
from farkas_exp.launch.complaints import one_line
from farkas_exp.launch.composition import values_of
from farkas_exp.launch.local_parallel import visible_gpus
from farkas_exp.launch.sweep import CRASH, OK, TO_BE_CONTINUED, USAGE, Cut, Outcome, Planned, Sweep, SweepWatch
from farkas_exp.machine import distributed, output, signals
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.machine.files import write_text
from farkas_exp.machine.home import ensure_home
from farkas_exp.machine.signals import StopRequest, at_stake, free_to_leave, last_words

CHECK_DATA = "--check-data"
"""The flag that decodes a data set's files in the place of training on them."""


def _best(key: str, *, _root_: DictConfig) -> Any:
    """The value of `${best:KEY}`: see `best.best_value`."""
    from farkas_exp.runs.best import best_value

    values: Any = OmegaConf.to_container(_root_, resolve=False)
    run, _ = arms.of_run({name: value for name, value in values.items() if name != "hydra"})
    return best_value(key, run)


OmegaConf.register_new_resolver("best", _best, replace=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status. Of several processes the first one does, the others follow."""
    if arguments is not None:
        sys.argv = ["farkas_exp", *arguments]
    ensure_home()
    with output.patient():
        try:
            signals.check_environment()
            with distributed.group() as processes:
                if not processes.is_first:
                    return workers.follow(processes)
                status = sweep.CRASH
                try:
                    status = _lead()
                finally:
                    workers.dismiss(processes, status)
                return status
        except UserError as error:  # before there was anything to lead
            return _complain(str(error))


def _lead() -> int:
    given = sys.argv[1:]
    tell_hydra(Path(config_dir()), given)
    if {"--help", "-h"} & set(given):
        print(help_text(Path(config_dir())))
        return OK
    if CHECK_DATA in given:
        return _check_data([argument for argument in given if argument != CHECK_DATA])
    # argparse wants its flags together: `model=... -m seed=0,1` is as good as `-m model=... seed=0,1`.
    sys.argv[1:] = sorted(keep_texts(given) + packing(given), key=lambda argument: argument not in ("-m", "--multirun"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, and we say them in one line
    outcomes: list[Outcome] = []
    SweepWatch.current = SweepWatch.refusal = None
    cut = None
    try:
        sys.argv[1:] = _check_command_line(sys.argv[1:])
        with prints.remembered(), signals.handled(), last_words(partial(_stopped, given)):
            hydra.main(config_path=config_dir(), config_name="config", version_base="1.3")(_Job(outcomes))()
    except (KeyboardInterrupt, SystemExit) as stop:
        if SweepWatch.refusal:
            return _complain(SweepWatch.refusal)
        if isinstance(stop, SystemExit) and stop.code != TO_BE_CONTINUED:
            raise
        cut = Cut(LOST_EACH_OTHER if distributed.is_broken() else STOPPED)
    except Exception as error:  # noqa: BLE001 - a command line that does not compose, or a launcher or search that failed
        if SweepWatch.current is None or not SweepWatch.current.has_begun:
            return _complain(one_line(error))
        cut = _failure_of_sweep(SweepWatch.current, error)
    if SweepWatch.current is not None:
        with at_stake():
            return _end_of_sweep(SweepWatch.current, given, cut)
    if cut and not outcomes:
        return TO_BE_CONTINUED
    if outcomes and outcomes[-1].status == sweep.REFUSED:
        return _complain(outcomes[-1].note)
    return outcomes[-1].exit_status if outcomes else OK  # no outcome: --help, --cfg and the like


PASSING = (MemoryError, EOFError, ConnectionError, BrokenProcessPool)
PASSING_ERRNOS = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ETIMEDOUT})
"""Trouble of a machine that may be over when the same command is given again."""


def _failure_of_sweep(current: Sweep, error: Exception) -> Cut:
    """Why a launcher or a search ended a sweep that had begun; the traceback goes into the sweep's folder."""
    if isinstance(error, UserError):
        return Cut(str(error), USAGE)
    path = current.directory / "error.txt"
    with suppress(OSError):
        write_text(path, traceback.format_exc())
    passing = isinstance(error, PASSING) or (isinstance(error, OSError) and error.errno in PASSING_ERRNOS)
    # Optuna raises at the end of a search without a result: its runs are to be continued, and say so themselves.
    left = any(outcome.exit_status == TO_BE_CONTINUED for outcome in sweep.read_outcomes(current.directory))
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({path})"
    return Cut(reason, TO_BE_CONTINUED if passing or left else USAGE)


def _check_data(arguments: Sequence[str]) -> int:
    """Decode every file of the data set that the overrides name; the exit status is 1 where one is broken."""
    from farkas_exp.data.files.check import check_data

    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        overrides = _check_command_line(keep_texts(arguments))
        with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
            composed = hydra.compose("config", list(overrides))
        values: Any = OmegaConf.to_container(composed, resolve=True)
        return CRASH if check_data(parse(arms.of_run(values)[0]).dataset) else OK
    except KeyboardInterrupt:
        return TO_BE_CONTINUED
    except (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return _complain(one_line(error))


def packing(arguments: Sequence[str]) -> list[str]:
    """What `packing=N` on the command line means to Hydra: the local launcher with N processes for each GPU.

    A launcher that the command line names itself stays.
    """
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith("packing=")]
    if not values or not values[-1].isdecimal() or any(a.startswith("hydra/launcher=") for a in arguments):
        return []
    processes = int(values[-1]) * max(1, len(visible_gpus()))
    return [] if processes < 2 else ["hydra/launcher=local_parallel", f"hydra.launcher.n_jobs={processes}"]


STOPPED, LOST_EACH_OTHER = "stopped by a signal", "its processes have lost each other"
"""Why a sweep ended before its last run."""


def _stopped(given: Sequence[str]) -> None:
    """What a sweep says when a signal ends its process between two runs."""
    if SweepWatch.current is not None:
        _end_of_sweep(SweepWatch.current, given, Cut(STOPPED), report=False)


class _Job:
    """The task that Hydra runs for every combination of overrides; also unpickled on a cluster's machines."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.__name__ = "farkas_exp"

    def __call__(self, composed: DictConfig) -> float | None:
        with StopRequest() as stop:
            return self._run(composed, stop)

    def _run(self, composed: DictConfig, stop: StopRequest) -> float | None:
        job = HydraConfig.get()
        os.chdir(job.runtime.cwd)  # hydra.job.chdir moves no relative path
        overrides = typing.cast(list[str], OmegaConf.to_container(job.overrides.task))  # they may hold a ${...}
        in_sweep = job.mode == RunMode.MULTIRUN
        name = " ".join(overrides)
        objective = None
        if in_sweep:  # stays if this process is killed
            self._record(
                overrides, Outcome(sweep.LOST, name, "begun, and ended without a word: killed, or out of memory")
            )
        not_trained = Outcome(runs.INTERRUPTED, name, "stopped before it trained")
        try:
            if stop.requested:
                raise SystemExit(TO_BE_CONTINUED)
            run = Planned.of(values_of(composed))
            searches = in_sweep and sweep.is_search(job.sweeper)
            if searches and run.config is not None and run.config.dataset.validation == 0:
                raise UserError(sweep.NEEDS_VALIDATION)
            with last_words(lambda: self._record(overrides, not_trained) if in_sweep else None):
                outcome = run.execute()
            objective = run.objective(outcome)
        except (UserError, OmegaConfBaseException) as error:  # not raised: Hydra would print a second report of it
            outcome = Outcome(sweep.REFUSED, name, one_line(error))
        except (KeyboardInterrupt, SystemExit):
            if in_sweep:
                self._record(overrides, not_trained)
            raise
        except Exception as error:  # noqa: BLE001 - a defect outside of the training leaves the other runs alone, too
            output.warn(traceback.format_exc())
            outcome = Outcome(runs.CRASHED, name, f"{type(error).__name__}: {' '.join(str(error).split())}")
        self.outcomes.append(outcome)
        if in_sweep or outcome.status != sweep.REFUSED:
            output.say(f"{outcome.status}: {outcome.path}" + (f" ({outcome.note})" if outcome.note else ""))
        if in_sweep:
            self._record(overrides, outcome, objective)
        if outcome.status == runs.INTERRUPTED or distributed.is_broken():
            raise SystemExit(TO_BE_CONTINUED)
        if outcome.status in sweep.ENDS_A_FAST_SWEEP and composed.fail_fast is True:
            raise SystemExit(TO_BE_CONTINUED)
        return objective

    @staticmethod
    def _record(overrides: Sequence[str], outcome: Outcome, objective: float | None = None) -> None:
        job = HydraConfig.get()
        directory = Path(job.sweep.dir) if SweepWatch.current is None else SweepWatch.current.directory
        sweep.record_outcome(directory, int(job.job.num), overrides, outcome, objective)


def _end_of_sweep(current: Sweep, given: Sequence[str], cut: Cut | None, report: bool = True) -> int:
    outcomes = sweep.read_outcomes(current.directory) if current.has_begun else []
    if cut and current.fail_fast and any(outcome.status in sweep.ENDS_A_FAST_SWEEP for outcome in outcomes):
        cut = Cut("fail_fast=true")
    seconds = time.monotonic() - current.started
    status = sweep.summarize(outcomes, seconds, given, cut, current.repeated)
    if current.has_begun and (best := sweep.best_line(current.directory)):
        output.say(best)
    if current.experiment and report:
        _render(current.experiment, outcomes)
    return status


def _render(experiment: str, outcomes: Sequence[Outcome]) -> None:
    """Show the table or figure of an experiment as far as it is there; trouble with it is no trouble of the runs."""
    paths: dict[Path, list[Path]] = {}
    for outcome in outcomes:
        if outcome.status not in (sweep.PASSED_OVER, sweep.REFUSED, sweep.LOST):
            path = Path(outcome.path)
            paths.setdefault(path.parent.parent, []).append(path)
    try:
        with free_to_leave():
            from farkas_exp.report.command import render_experiment

            for runs_dir, own in paths.items():
                for path in render_experiment(experiment, runs_dir, own):
                    output.say(str(path))
    except UserError as error:
        output.warn(f"no report: {error}")
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - the runs are over, whatever happens here
        output.warn(f"no report: {type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": "))


def _complain(message: str) -> int:
    output.warn(f"error: {message}")
    return USAGE


def _check_command_line(arguments: Sequence[str]) -> list[str]:
    """The arguments with the arms of the experiment under their own names, which are offered to Hydra.

    Raises:
        UserError: what argparse and Hydra would answer at length or without the key.
    """
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    flags = parser.parse_args(list(arguments))
    folders = [Path(config_dir()), *([Path(flags.config_dir)] if flags.config_dir else [])]
    groups = choices(folders[0])
    overrides = []
    for text in flags.overrides:
        if text.startswith(f"{arms.GROUP}="):
            continue  # below, when the experiment is known
        (override,) = OverridesParser.create().parse_overrides([text])
        overrides.append(override)
        group = override.key_or_group
        if not group:
            raise UserError(f"{text}: a key is missing before the equals sign; write KEY=VALUE")
        if group in ("hydra", "hydra.callbacks") or group.startswith("hydra.callbacks.sweep"):
            raise UserError(f"{group}: cannot be changed as a whole; single values: hydra.KEY=VALUE")
        if group == "hydra/sweeper" and override.value() in ("tpe", "optuna") and not _has_optuna():
            raise UserError(f"{text}: needs hydra-optuna-sweeper; pip install 'farkas-exp[search]'")
        if group in groups and not override.is_delete() and not override.is_sweep_override():
            value = override.value()
            if not isinstance(value, str):
                shown = text.partition("=")[2]
                raise UserError(f"{unknown(group, shown, groups[group])} (single values: {group}.KEY=VALUE)")
    experiment, found = _experiment(overrides, folders)
    named = [arms.named(argument, found) for argument in arguments]
    for text in named:
        if text.startswith(f"{arms.GROUP}="):
            _check_arm(text, experiment, found, folders)
    arms.offer(found)
    return named


def _experiment(overrides: Sequence[Override], folders: Sequence[Path]) -> tuple[str | None, dict[str, arms.Arm]]:
    """The experiment that is asked for, and its arms."""
    asked = [override for override in overrides if override.key_or_group == "experiment"]
    if any(override.is_sweep_override() for override in asked):
        raise UserError("experiment: one at a time, for each brings a sweep of its own")
    name = asked[-1].value() if asked else None
    return (name, arms.arms_of(name, folders)) if isinstance(name, str) else (None, {})


def _check_arm(text: str, experiment: str | None, found: dict[str, arms.Arm], folders: Sequence[Path]) -> None:
    """Raise a `UserError` for an arm that the experiment does not have."""
    if not found:
        where = f"experiment={experiment} has no arms" if experiment else "this is for an experiment with arms"
        raise UserError(f"arm: {where}; with arms: {', '.join(arms.with_arms(folders))}")
    (override,) = OverridesParser.create().parse_overrides([text])
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return
    discrete = override.is_sweep_override() and override.is_discrete_sweep()
    for each in list(override.sweep_iterator()) if discrete else [override.value()]:
        if each is not None and str(each) not in found:
            raise unknown("arm", str(each), found)


def _has_optuna() -> bool:
    try:
        return importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is not None
    except ImportError:
        return False


def _refuse_flag(message: str) -> NoReturn:
    raise UserError(f"{message}; flags: see --hydra-help")
