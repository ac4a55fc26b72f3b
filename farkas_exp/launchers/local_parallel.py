"""Several runs at once on one machine, each in a process of its own.

The workers are started once and import torch once; each takes the next run when it is done with one. A worker that
dies takes only its current run with it. Every worker has a fixed number of threads and, where there are GPUs, one of
them, so the numbers of a run do not depend on what runs beside it.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from farkas_exp import runs, sweep
from farkas_exp.errors import UserError
from farkas_exp.sweep import TO_BE_CONTINUED

THREAD_VARIABLES: tuple[str, ...] = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class LocalParallelLauncher(Launcher):
    """Runs `n_jobs` runs at once.

    Args:
        n_jobs: processes.
        threads: CPU threads of each; null shares the cores out evenly.
        gpus: how many GPUs the processes take in turn; null for all that CUDA_VISIBLE_DEVICES or the machine shows.
    """

    def __init__(self, n_jobs: int = 2, threads: int | None = None, gpus: int | None = None) -> None:
        for name, value in (("n_jobs", n_jobs), ("threads", threads)):
            if value is not None and value < 1:
                raise UserError(f"hydra.launcher.{name}: {value!r} is out of range; it must be at least 1")
        self.n_jobs, self.gpus = n_jobs, gpus
        self.threads = threads or max(1, available_cores() // n_jobs)
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the first batch of runs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all `job_overrides` and return their outcomes in order.

        Raises:
            SystemExit: with status 75, when a run was asked to stop; what had not begun is left.
        """
        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        payload = cloudpickle.dumps((self.hydra_context, self.config, self.task_function, Singleton.get_state()))
        numbered = [(initial_job_idx + number, list(overrides)) for number, overrides in enumerate(job_overrides)]
        pool = _Pool(min(self.n_jobs, len(numbered)), payload, self._environment)
        with _forwarding_signals(pool):
            returns = pool.run(numbered, on_death=self._record_death)
        if pool.stopped:
            raise SystemExit(TO_BE_CONTINUED)
        return [returns[number] for number, _ in numbered]

    def _environment(self, worker: int) -> dict[str, str]:
        """The environment variables of a worker: its threads, and its GPU if there are any."""
        variables: dict[str, str] = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        gpus = visible_gpus()[: self.gpus]
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
        return variables

    def _record_death(self, number: int, overrides: list[str], exit_code: int | None) -> None:
        assert self.config is not None
        cause = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"status {exit_code}"
        outcome = sweep.Outcome(runs.CRASHED, " ".join(overrides), f"the process died ({cause}); run it again to go on")
        sweep.record_outcome(Path(str(self.config.hydra.sweep.dir)), number, overrides, outcome)
        print(f"{outcome.status}: {outcome.path} ({outcome.note})", flush=True)


class _Worker:
    """A process and the run that it is at."""

    def __init__(self, process: SpawnProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.task: tuple[int, list[str]] | None = None


class _Pool:
    """Worker processes that are handed one run at a time."""

    def __init__(self, size: int, payload: bytes, environment: Any) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._payload, self._environment = payload, environment
        self.stopped = False
        self.workers = [self._start(number) for number in range(size)]

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        with _environment(self._environment(number)):
            process = self._context.Process(target=_serve, args=(theirs, self._payload), name=f"worker {number}")
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def run(self, tasks: Sequence[tuple[int, list[str]]], on_death: Any) -> dict[int, JobReturn]:
        """Hand out all tasks; a worker that died is replaced, its run recorded by `on_death`."""
        waiting, returns = list(tasks), {}
        for worker in self.workers:
            self._hand_out(worker, waiting)
        while busy := {worker.connection: number for number, worker in enumerate(self.workers) if worker.task}:
            for connection in wait(list(busy)):
                number = busy[connection]  # type: ignore[index]
                worker = self.workers[number]
                assert worker.task is not None
                try:
                    returns[worker.task[0]] = cloudpickle.loads(worker.connection.recv_bytes())
                except EOFError:
                    worker.process.join()
                    if worker.process.exitcode == TO_BE_CONTINUED:
                        self.stopped = True
                    else:
                        on_death(*worker.task, worker.process.exitcode)
                        returns[worker.task[0]] = _nothing()
                    worker.task = None
                    if not self.stopped and waiting:
                        worker = self.workers[number] = self._start(number)
                if not self.stopped and worker.process.is_alive():
                    self._hand_out(worker, waiting)
        for worker in self.workers:
            worker.connection.close()
            worker.process.join()
        return returns

    @staticmethod
    def _hand_out(worker: _Worker, waiting: list[tuple[int, list[str]]]) -> None:
        worker.task = waiting.pop(0) if waiting else None
        if worker.task is not None:
            worker.connection.send(worker.task)


def _serve(connection: Connection, payload: bytes) -> None:
    """A worker's life: run what it is handed until there is nothing more."""
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(TO_BE_CONTINUED))  # between runs nothing is lost
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(TO_BE_CONTINUED))
    hydra_context, config, task_function, singleton_state = cloudpickle.loads(payload)
    Singleton.set_state(singleton_state)
    setup_globals()
    while True:
        try:
            number, overrides = connection.recv()
        except EOFError:
            return
        job = hydra_context.config_loader.load_sweep_config(config, overrides)
        with open_dict(job):
            job.hydra.job.id = number
            job.hydra.job.num = number
            if job.progress in ("auto", "live"):
                job.progress = "plain"  # one terminal, several runs
        outcome = run_job(
            hydra_context=hydra_context,
            task_function=task_function,
            config=job,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        connection.send_bytes(cloudpickle.dumps(outcome))


def _nothing() -> JobReturn:
    """The return of a run whose process died; its outcome is in the sweep's folder."""
    return JobReturn(status=JobStatus.COMPLETED)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu and gpu != "-1"]
    return [str(number) for number in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started inside of the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _forwarding_signals(pool: _Pool) -> Iterator[None]:
    """Pass a request to stop on to the workers, each of which leaves a checkpoint; then wait for them."""

    def forward(number: int, frame: Any) -> None:
        pool.stopped = True
        for worker in pool.workers:
            if worker.process.is_alive():
                os.kill(worker.process.pid or 0, signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
