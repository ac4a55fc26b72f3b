"""The command line: Hydra composes, the schema checks, the task runs; a mistake is one line and status 2.

Imports no torch, so `--help`, `--cfg job` and the skipping of finished runs answer at once.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.config import arms, parse
from farkas_exp.config.help import help_text
from farkas_exp.config.store import config_dir, tell_hydra
from farkas_exp.config.texts import keep_texts
from farkas_exp.data.files import prints
from farkas_exp.launch import workers
from farkas_exp.launch.arguments import checked, packing
from farkas_exp.launch.complaints import one_line
from farkas_exp.launch.outcomes import CRASH, OK, REFUSED, TO_BE_CONTINUED, USAGE, Outcome, outcome_rows
from farkas_exp.launch.summary import LOST_EACH_OTHER, STOPPED, Cut, end_of_sweep, failure_of_sweep
from farkas_exp.launch.sweep import SweepWatch
from farkas_exp.launch.task import Task
from farkas_exp.machine import distributed, output, signals
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.home import check_folder, ensure_home
from farkas_exp.machine.signals import at_stake, last_words

CHECK_DATA = "--check-data"
"""The flag that decodes the files of a data set in place of training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status. Of several processes the first leads, the others follow."""
    if arguments is not None:
        sys.argv = ["farkas_exp", *arguments]
    ensure_home()
    with output.patient():
        try:
            signals.check_environment()
            with distributed.group() as processes:
                if not processes.is_first:
                    return workers.follow(processes)
                status = CRASH
                try:
                    status = _lead()
                finally:
                    workers.dismiss(processes, status)
                return status
        except UserError as error:  # before the processes met
            return _complain(str(error))


def _lead() -> int:
    """Help, check data, or run, as the first process."""
    given = sys.argv[1:]
    tell_hydra(given)
    if {"--help", "-h"} & set(given):
        print(help_text(Path(config_dir())))
        return OK
    check_folder()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, so that we report them in one line
    if CHECK_DATA in given:
        return _check_data([argument for argument in given if argument != CHECK_DATA])
    return _run(given)


def _run(given: Sequence[str]) -> int:
    """Let Hydra compose, run what it composes, and return the exit status."""
    outcomes: list[Outcome] = []
    SweepWatch.current = SweepWatch.refusal = None
    cut = None
    try:
        arguments = keep_texts(given) + packing(given)
        sys.argv[1:] = checked(sorted(arguments, key=lambda text: text not in ("-m", "--multirun")))  # for argparse
        with prints.remembered(), signals.handled(), last_words(partial(_stopped, given)):
            hydra.main(config_path=config_dir(), config_name="config", version_base="1.3")(Task(outcomes))()
    except (KeyboardInterrupt, SystemExit) as stop:
        if SweepWatch.refusal:
            return _complain(SweepWatch.refusal)
        if isinstance(stop, SystemExit) and stop.code != TO_BE_CONTINUED:
            raise
        cut = Cut(LOST_EACH_OTHER if distributed.is_broken() else STOPPED)
    except Exception as error:  # noqa: BLE001 - it does not compose, or a launcher or search failed
        current = SweepWatch.current
        refused = isinstance(error, UserError)
        if not (current and current.has_begun) or (refused and not outcome_rows(current.directory)):
            return _complain(one_line(error))
        cut = failure_of_sweep(current, error)
    if SweepWatch.current is not None:
        with at_stake():
            return end_of_sweep(SweepWatch.current, given, cut)
    if not outcomes:  # stopped before the first run, or --cfg and the like
        return TO_BE_CONTINUED if cut else OK
    return _complain(outcomes[-1].note) if outcomes[-1].status == REFUSED else outcomes[-1].exit_status


def _check_data(arguments: Sequence[str]) -> int:
    """Decode every file of the data set in the overrides; return 1 if one is broken."""
    from farkas_exp.data.files.check import check_data

    try:
        overrides = checked(keep_texts(arguments))
        with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
            composed = hydra.compose("config", list(overrides))
        values: Any = OmegaConf.to_container(composed, resolve=True)
        return CRASH if check_data(parse(arms.of_run(values)[0]).dataset) else OK
    except KeyboardInterrupt:
        return TO_BE_CONTINUED
    except (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return _complain(one_line(error))


def _stopped(given: Sequence[str]) -> None:
    """Summarize a sweep whose process a signal ends between two runs."""
    if SweepWatch.current is not None:
        end_of_sweep(SweepWatch.current, given, Cut(STOPPED), report=False)


def _complain(message: str) -> int:
    output.warn(f"error: {message}")
    return USAGE
