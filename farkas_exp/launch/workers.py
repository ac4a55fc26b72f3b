"""The worker ranks: every process but the first trains what the first one trains, until it dismisses them."""

import sys
from contextlib import suppress
from typing import Any

from farkas_exp.config import Config, parse, to_dict
from farkas_exp.machine import distributed, signals
from farkas_exp.machine.errors import Interrupted, UserError, in_one_line
from farkas_exp.machine.output import warn
from farkas_exp.machine.processes import Processes, RankFailed


def call(processes: Processes, config: Config) -> None:
    """In the first process: let the others train `config`, too.

    Raises:
        Interrupted: another process is gone.
    """
    with processes.within_reach():
        processes.broadcast(to_dict(config))


def dismiss(processes: Processes, status: int) -> None:
    """In the first process, at its end: let the others exit with the same status."""
    if processes.are_several and not distributed.is_broken():
        sys.stdout.flush()
        with suppress(Interrupted), processes.within_reach():
            processes.broadcast(status)


def follow(processes: Processes) -> int:
    """In every other process: train each run that the first one calls for; return the exit status.

    Prints only an error of this process that the first one cannot report.
    """
    with signals.handled():  # a signal between two runs must stop the next one
        while True:
            try:
                with processes.within_reach():
                    told: Any = processes.broadcast(None)
            except Interrupted:  # the first process is gone
                return signals.STATUS
            if isinstance(told, int):
                return told
            status = _take_part(processes, parse(told))
            if distributed.is_broken():
                return status


def _take_part(processes: Processes, config: Config) -> int:
    from farkas_exp.runs import open_run
    from farkas_exp.training.session import train

    try:
        train(config, open_run(config))
    except (UserError, Interrupted, RankFailed):  # the first process reports it
        return 1
    except Exception as error:  # noqa: BLE001 - the first process reports it if it still can
        if distributed.is_broken():
            warn(f"error: process {processes.rank}: {in_one_line(error)}")
        return 1
    return 0
