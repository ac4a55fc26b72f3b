"""`hydra/launcher=sequential`, the default: the runs of a sweep one after the other, in this process."""

from collections.abc import Mapping, Sequence
from typing import Any

from farkas_exp.launch import jobs
from farkas_exp.launch.jobs import Run, Work
from farkas_exp.machine.errors import UserError


def launch(settings: Mapping[str, Any], work: Work, all_runs: Sequence[Run]) -> None:
    """Train all runs.

    Raises:
        UserError: there is a setting.
    """
    if settings:
        raise UserError(
            f"hydra.launcher.{next(iter(settings))}: does nothing here; it needs another hydra/launcher, such as"
            " hydra/launcher=local_parallel"
        )
    for run in jobs.skip_done(work, all_runs):
        jobs.run_one(work, run)
        jobs.tell_ended(work, [run])
