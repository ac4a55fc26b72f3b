"""Runs as jobs of a Slurm cluster, by submitit; several short runs may share a job."""

import json
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """hydra-submitit-launcher's Slurm launcher with `runs_per_job`: so many runs, one after the other, in each job.

    A job that is preempted or runs out of time is submitted again with all its runs; those that are done are skipped
    and the one that was interrupted goes on.
    """

    def __init__(self, runs_per_job: int = 1, **params: Any) -> None:
        super().__init__(**params)
        self.runs_per_job = runs_per_job

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the runs, `runs_per_job` to a job, and wait for all of them."""
        jobs = pack(job_overrides, self.runs_per_job, initial_job_idx)
        return [outcome for job in super().launch(jobs, 0) for outcome in job]  # type: ignore[attr-defined]

    def __call__(self, sweep_overrides: list[str], job_dir_key: str, job_num: int, *rest: Any) -> Any:
        """The work of one job, on its machine: its runs in order."""
        return [
            super(SlurmLauncher, self).__call__(run, job_dir_key, number, *rest)
            for number, run in unpack(sweep_overrides)
        ]


def pack(runs: Sequence[Sequence[str]], runs_per_job: int, first: int) -> list[list[str]]:
    """The runs in groups of `runs_per_job`, each run with its number as one text: what a job gets for overrides."""
    texts = [json.dumps([first + number, list(run)]) for number, run in enumerate(runs)]
    return [texts[start : start + runs_per_job] for start in range(0, len(texts), runs_per_job)]


def unpack(texts: Sequence[str]) -> list[tuple[int, list[str]]]:
    """The numbers and overrides of a job's runs."""
    return [(number, run) for number, run in map(json.loads, texts)]
