"""`hydra/launcher=slurm`: the jobs of a sweep as arrays of Slurm jobs, by submitit.

Beyond submitit, it trains several runs in one job, splits arrays that are too long for the cluster, resubmits jobs that
died without an outcome, and saves before it asks for a requeue.
"""

import io
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

from farkas_exp.launch import jobs, workers
from farkas_exp.launch.jobs import Group, Run, Work
from farkas_exp.launch.outcomes import LOST, TO_BE_CONTINUED, end_job
from farkas_exp.machine import distributed
from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.machine.output import say
from farkas_exp.machine.signals import PREEMPTION, StopRequest
from farkas_exp.runs import CRASHED

try:
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.helpers import DelayedSubmission
except ImportError as error:
    raise UserError(f"hydra/launcher: slurm needs submitit ({error}); pip install 'farkas-exp[cluster]'") from None

_POLL_SECONDS = 1.0


class _Job:
    """One Slurm job; submitit calls it in each of its tasks, and again after each requeue.

    Several tasks train each run of the group together; the first one leads, and asks for the requeue.
    """

    def __init__(self, work: Work, group: Group) -> None:
        self.work, self.group = work, group

    def __call__(self) -> None:
        """Train the group's runs; a stop request ends it with a checkpoint and a requeue."""
        if "SLURM_CPUS_PER_TASK" in os.environ:  # before PyTorch is imported, which takes every core it sees
            os.environ.setdefault("OMP_NUM_THREADS", os.environ["SLURM_CPUS_PER_TASK"])
        requeue = signal.getsignal(PREEMPTION)  # submitit's handler
        with StopRequest() as stop:  # replaces it: a second signal must not disturb saving or requeueing
            with distributed.group() as processes:
                if not processes.is_first:
                    if status := workers.follow(processes):
                        raise SystemExit(status)  # lets srun end the other tasks
                    return
                try:
                    jobs.run_group(self.work, self.group, stop)
                finally:
                    workers.dismiss(processes, 0)
            if stop.requested and _is_running():
                say(f"{stop.signal_name}: asking Slurm to requeue this job")
                _requeue(requeue)
        end_job()

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs after the requeue: the same job, which skips finished runs and continues stopped ones."""
        return DelayedSubmission(self)


def _requeue(submitit_handler: Any) -> None:
    """Leave the process for submitit's requeue.

    Raises:
        SystemExit: the job is requeued, or Slurm will do it itself (it may have ended `scontrol` with this process).
        UncompletedJobError: the time ran out more than max_num_timeout times.
    """
    try:
        submitit_handler(PREEMPTION, None)
    except subprocess.SubprocessError as error:
        say(f"no requeue: {error}")
        raise SystemExit(TO_BE_CONTINUED) from None


def _is_running() -> bool:
    """Whether the job still runs, so that we have to ask for a requeue.

    It does not after `scancel`, when it must end for good, nor when Slurm requeues it by itself.
    """
    command = ["scontrol", "--oneliner", "show", "job", os.environ.get("SLURM_JOB_ID", "")]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return True
    return "JobState=RUNNING" in shown


def launch(settings: Mapping[str, Any], work: Work, all_runs: Sequence[Run]) -> None:
    """Submit all runs and wait for them.

    Raises:
        SystemExit: a run crashed with fail_fast=true; the sweep's jobs are cancelled.
    """
    own = {key: jobs.whole_number(settings, key, least) for key, least in _OWN_SETTINGS.items()}
    executor = _executor({key: value for key, value in settings.items() if key not in _OWN_SETTINGS})
    waiting = jobs.groups(jobs.skip_done(work, all_runs), own["runs_per_job"])
    for _ in range(1 + own["retries"]):
        arrays = [waiting[first : first + own["array_size"]] for first in range(0, len(waiting), own["array_size"])]
        waiting = [group for array in arrays for group in _run_array(executor, work, array)]


_OWN_SETTINGS = {"runs_per_job": 1, "retries": 0, "array_size": 1}
"""The settings that are ours, with their least values."""

_OF_EVERY_CLUSTER = frozenset(
    ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "stderr_to_stdout")
)
"""The settings that submitit knows for every kind of cluster; it calls the others `slurm_...`."""


def _executor(settings: dict[str, Any]) -> AutoExecutor:
    """Submitit's executor with these settings."""
    folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
    tasks = jobs.whole_number(settings, "nodes", 1) * jobs.whole_number(settings, "tasks_per_node", 1)
    if tasks > 1:  # they train a run together, and the others would wait for one that died
        settings["srun_args"] = [*(settings.get("srun_args") or []), "--kill-on-bad-exit=1"]
    with _refusals():
        executor = AutoExecutor(cluster="slurm", folder=folder, slurm_max_num_timeout=timeouts)
        named = {key if key in _OF_EVERY_CLUSTER else f"slurm_{key}": value for key, value in settings.items()}
        executor.update_parameters(**{key: value for key, value in named.items() if value is not None})
    return executor


@contextmanager
def _refusals() -> Iterator[None]:
    """Report a setting that submitit or sbatch refuses in one line."""
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what it raises
            yield
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        lines = [line for line in str(error).splitlines() if "sbatch: error:" in line] or [str(error).splitlines()[-1]]
        raise UserError(f"hydra.launcher: {'; '.join(lines).replace('sbatch: error: ', '')}") from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"hydra.launcher: {message_of(error)}") from None


def _run_array(executor: AutoExecutor, work: Work, groups: Sequence[Group]) -> list[Group]:
    """Submit an array of jobs and wait for its end; return the groups that died without an outcome."""
    with _refusals(), executor.batch():
        submitted = [executor.submit(_Job(work, group)) for group in groups]
    array = submitted[0].job_id.split("_")[0]
    logs = submitted[0].paths.folder.parent
    say(f"Slurm job {array}: {sum(map(len, groups))} runs in {len(groups)} jobs; logs in {logs}")
    try:
        with StopRequest() as stop:
            _wait(work, submitted, groups, stop)
    except (KeyboardInterrupt, SystemExit):
        say(f"The jobs of Slurm job {array} go on; to end them: scancel {array}")
        raise
    died = []
    for job, group in zip(submitted, groups, strict=True):
        if not jobs.left(work, group):
            continue
        state = job.get_info().get("State", "unknown")
        note = f"Slurm job {job.job_id} ended in state {state}; its log: {job.paths.stdout}"
        status = CRASHED if state == "FAILED" else LOST  # FAILED: by itself, not by Slurm
        for_memory = state.startswith("OUT_OF_ME")  # sacct may cut it short
        if jobs.mark_died(work, group, note, status, for_memory=for_memory) and not state.startswith("CANCELLED"):
            died.append(group)
    return died


def _wait(work: Work, submitted: Sequence[Any], groups: Sequence[Group], stop: StopRequest) -> None:
    waiting = list(zip(submitted, groups, strict=True))
    while waiting:
        ended = [(job, group) for job, group in waiting if job.done()]
        waiting = [each for each in waiting if each not in ended]
        for _, group in ended:
            if not jobs.left(work, group):  # else it may be submitted again
                jobs.tell_ended(work, group)
        if not waiting:
            return
        if stop.requested:
            raise SystemExit(TO_BE_CONTINUED)
        if work.sweep.fail_fast and any(jobs.crashed(work, group) for group in groups):
            for job in submitted:
                job.cancel(check=False)
            raise SystemExit(TO_BE_CONTINUED)
        time.sleep(_POLL_SECONDS)
