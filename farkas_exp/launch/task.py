"""What Hydra calls with every composed configuration: run it, and leave the outcome in the sweep's folder."""

import os
import traceback
import typing
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from farkas_exp import runs
from farkas_exp.config.composition import values_of
from farkas_exp.launch.complaints import one_line
from farkas_exp.launch.execution import execute
from farkas_exp.launch.outcomes import LOST, OUTCOMES, REFUSED, TO_BE_CONTINUED, Outcome, record_outcome
from farkas_exp.launch.planned import objective, planned
from farkas_exp.launch.sweep import NEEDS_VALIDATION, SweepWatch, is_search
from farkas_exp.machine import distributed
from farkas_exp.machine.errors import UserError, in_one_line
from farkas_exp.machine.output import say, warn
from farkas_exp.machine.signals import StopRequest, last_words


class Task:
    """The task that Hydra runs for every combination of overrides, also on the machines of a cluster."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.__name__ = "farkas_exp"

    def __call__(self, composed: DictConfig) -> float | None:
        """Execute the run, report it, and return the objective of a search.

        Raises:
            SystemExit: it was stopped, or it ends a sweep with fail_fast=true (status 75).
        """
        with StopRequest() as stop:
            os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir moves no relative path
            lost = "begun, and ended without a message: killed, or out of memory"
            _record(Outcome(LOST, _name(), lost))  # stays if this process is killed
            outcome, objective = _execute(composed, stop)
            self.outcomes.append(outcome)
            if _in_sweep() or outcome.status != REFUSED:
                say(f"{outcome.status}: {outcome.path}" + (f" ({outcome.note})" if outcome.note else ""))
            _record(outcome, objective)
            if outcome.status == runs.INTERRUPTED or distributed.is_broken():
                raise SystemExit(TO_BE_CONTINUED)
            if OUTCOMES[outcome.status].ends_fast and composed.fail_fast is True:
                raise SystemExit(TO_BE_CONTINUED)
            return objective


def _execute(composed: DictConfig, stop: StopRequest) -> tuple[Outcome, float | None]:
    """The outcome of the run, whatever happens in it, and the objective of a search.

    Raises:
        SystemExit, KeyboardInterrupt: it was stopped before it trained; its outcome is written.
    """
    not_trained = Outcome(runs.INTERRUPTED, _name(), "stopped before it trained")
    try:
        if stop.requested:
            raise SystemExit(TO_BE_CONTINUED)
        run = planned(values_of(composed))
        if isinstance(run, Outcome):
            return run, None
        job, sweep = HydraConfig.get(), SweepWatch.current if _in_sweep() else None
        if _in_sweep() and is_search(job.sweeper) and run.dataset.validation == 0:
            raise UserError(NEEDS_VALIDATION)
        with last_words(lambda: _record(not_trained)):
            outcome = execute(run, sweep.title(int(job.job.num), _overrides()) if sweep else None)
        return outcome, objective(run, outcome)
    except (UserError, OmegaConfBaseException) as error:  # not raised, or Hydra would report it again
        return Outcome(REFUSED, _name(), one_line(error)), None
    except (KeyboardInterrupt, SystemExit):
        _record(not_trained)
        raise
    except Exception as error:  # noqa: BLE001 - it must not end the other runs
        warn(traceback.format_exc())
        return Outcome(runs.CRASHED, _name(), in_one_line(error)), None


def _in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _overrides() -> list[str]:
    return typing.cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task))  # may hold a ${...}


def _name() -> str:
    return " ".join(_overrides())


def _record(outcome: Outcome, objective: float | None = None) -> None:
    """Write the outcome into the sweep's folder, if this is a sweep."""
    if _in_sweep():
        job = HydraConfig.get()
        directory = Path(job.sweep.dir) if SweepWatch.current is None else SweepWatch.current.directory
        record_outcome(directory, int(job.job.num), _overrides(), outcome, objective)
