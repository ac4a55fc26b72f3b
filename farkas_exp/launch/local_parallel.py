"""`hydra/launcher=local_parallel`: the jobs of a sweep as processes of this machine, several at a time.

Each job is a process of its own: if it is killed or runs out of memory, the others go on and the device is freed. Jobs
are forked from a server that has imported PyTorch, so they begin in milliseconds.
"""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import cloudpickle

from farkas_exp.config.store import choice_of
from farkas_exp.launch import jobs
from farkas_exp.launch.jobs import Group, Run, Work
from farkas_exp.launch.outcomes import DISK, LOST, REFUSED, TO_BE_CONTINUED, UNWRITTEN, end_job
from farkas_exp.machine import pids, signals
from farkas_exp.machine.cores import cores
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.machine.signals import StopRequest
from farkas_exp.runs import CRASHED

_UNKNOWN = 255
"""The exit code that multiprocessing reports for a process whose server is gone."""

_POLL_SECONDS = 0.2
"""How long the launcher may take to see a signal; the end of a job wakes it at once."""


@dataclass(frozen=True)
class Plan:
    """How many jobs run at a time, on which devices, with how many threads each.

    Slot i uses device i modulo their number; no devices means the CPU.
    """

    n_jobs: int
    devices: tuple[str, ...]
    threads: int

    def device(self, slot: int) -> str | None:
        """The device of a slot, or None for the CPU."""
        return self.devices[slot % len(self.devices)] if self.devices else None


def plan(settings: Mapping[str, Any], found: Sequence[str], cores: int) -> Plan:
    """Complete the settings of the launcher: by default a job for each device, or a job with one thread for each core.

    `found` are the devices of this machine, `cores` the number that this process may use.
    """
    known = choice_of("hydra/launcher", "local_parallel").keys() - {"_target_"}
    if strange := [key for key in settings if key not in known]:
        raise unknown("hydra.launcher", strange[0], known)
    chosen = settings["devices"]
    if chosen is not None and not isinstance(chosen, (list, tuple)):
        raise UserError(f"hydra.launcher.devices: expected a list such as [0,1], got {chosen!r}")
    devices = tuple(map(str, found if chosen is None else chosen))
    n_jobs = jobs.whole_number(settings, "n_jobs", 1, len(devices) or cores)
    return Plan(n_jobs, devices, jobs.whole_number(settings, "threads", 1, max(1, cores // n_jobs)))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, without starting CUDA: CUDA_VISIBLE_DEVICES, or what the driver lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index, _ in enumerate(driver.iterdir())] if driver.is_dir() else []


def launch(settings: Mapping[str, Any], work: Work, all_runs: Sequence[Run]) -> None:
    """Train all runs.

    Raises:
        UserError: a setting is out of range.
        SystemExit: the sweep was stopped (status 75), or a run crashed with fail_fast=true.
    """
    planned = plan(settings, [] if work.config.get("device") == "cpu" else visible_gpus(), cores())
    groups = jobs.groups(jobs.skip_done(work, all_runs), jobs.whole_number(settings, "runs_per_job", 1))
    retries = jobs.whole_number(settings, "retries", 0)
    pool = _Pool(work, planned, retries, _context(on_cpu=not planned.devices))
    with StopRequest(patience=False) as stop:  # the jobs have their own limit, and `_Pool` waits for them
        complete = pool.run(groups, stop)
    if not complete:
        raise SystemExit(TO_BE_CONTINUED)


@dataclass(frozen=True)
class _Started:
    """The process of a job: its runs, earlier tries, start time, and how many had been killed for memory by then."""

    process: Any
    group: Group
    tries: int
    born: str | None
    ended_for_memory: int

    def lives(self) -> bool:
        """Whether it still runs, even as an orphan of a killed server."""
        return self.process.is_alive() or (self.born is not None and pids.born(self.process.pid) == self.born)


@dataclass
class _Pool:
    """The running processes by slot. `payload` is the pickled work, which plain pickle cannot take."""

    work: Work
    plan: Plan
    retries: int
    context: BaseContext
    payload: bytes = b""
    running: dict[int, "_Started"] = field(default_factory=dict)
    ending: bool = False
    deadline: float = math.inf

    def run(self, groups: Sequence[Group], stop: StopRequest) -> bool:
        """Run all jobs; return whether none was skipped or stopped."""
        waiting = deque((group, 0) for group in groups)
        self.payload = cloudpickle.dumps(self.work)
        try:
            while self.running or (waiting and not self.ending):
                while waiting and not self.ending and len(self.running) < self.plan.n_jobs:
                    self._start(*waiting.popleft())
                self._wait()
                if stop.requested:
                    self._end()
                waiting.extend(self._collect())
        except BaseException:  # a second interrupt
            self._end()
            raise
        return not self.ending

    def _start(self, group: Group, tries: int) -> None:
        slot = next(slot for slot in range(self.plan.n_jobs) if slot not in self.running)
        process: Any = self.context.Process(  # type: ignore[attr-defined]
            target=_work, args=(self.payload, group, self.plan.device(slot), self.plan.threads)
        )
        resource_tracker.ensure_running()  # starting it unblocks SIGINT and SIGTERM
        killed = pids.ended_for_memory()
        with signals.held():  # the job server ignores signals; a job receives those that waited
            process.start()
        self.running[slot] = _Started(process, group, tries, pids.born(process.pid), killed)

    def _wait(self) -> None:
        """Wait until a process may have ended, or the stop request is to be checked."""
        sentinels = [started.process.sentinel for started in self.running.values() if started.process.is_alive()]
        if len(sentinels) == len(self.running):
            connection.wait(sentinels, _POLL_SECONDS)
        else:  # the server is dead, so nothing reports the end of its jobs
            time.sleep(_POLL_SECONDS)
        if time.monotonic() > self.deadline:
            for started in filter(_Started.lives, self.running.values()):
                os.kill(started.process.pid, signal.SIGKILL)

    def _collect(self) -> list[tuple[Group, int]]:
        """Remove ended processes from `running`; return the jobs to retry."""
        again = []
        for slot, started in list(self.running.items()):
            if started.lives():
                continue
            process, group, tries = started.process, started.group, started.tries
            process.join()
            del self.running[slot]
            if process.exitcode and not self.ending and jobs.left(self.work, group):
                note, status = _end(process.exitcode)
                for_memory = process.exitcode == -signal.SIGKILL and pids.ended_for_memory() > started.ended_for_memory
                note += " (out of memory)" if for_memory else ""
                may_go_on = jobs.mark_died(self.work, group, note, status, for_memory=for_memory)
                if may_go_on and status != DISK and tries < self.retries:
                    again.append((group, tries + 1))
            if self.work.sweep.fail_fast and jobs.crashed(self.work, group):
                self._end()
            if not (self.ending or any(group is other for other, _ in again)):
                jobs.tell_ended(self.work, group, running=len(self.running))
        return again

    def _end(self) -> None:
        """Start nothing more, and ask the running jobs, once, to write their checkpoints and leave."""
        if self.ending:
            return
        self.ending = True
        self.deadline = time.monotonic() + signals.PATIENCE + _POLL_SECONDS
        for started in self.running.values():
            started.process.terminate()


def _end(exitcode: int) -> tuple[str, str]:
    """Note and status of a job without an outcome: a killed one may be continued, a failed one not."""
    if exitcode < 0:
        return f"its process was ended by {signal.Signals(-exitcode).name}", LOST
    if exitcode == TO_BE_CONTINUED:
        return "its process was stopped before it began", LOST
    if exitcode == UNWRITTEN:
        return "its outcome could not be written; mend the disk and give the same command again", DISK
    if exitcode == _UNKNOWN:
        return "the job server was killed", LOST
    return f"its process ended with status {exitcode} and no message", CRASHED


def _context(on_cpu: bool) -> BaseContext:
    context = multiprocessing.get_context("forkserver")
    # the first optimizer of a process imports PyTorch's compiler, for seconds: jobs on a CPU find it imported. It may
    # look for GPUs, which no process forked afterwards could use.
    compiler = ["torch._dynamo"] if on_cpu else []
    context.set_forkserver_preload(["farkas_exp.launch.cli", "farkas_exp.training.session", *compiler])
    return context


def _work(payload: bytes, group: Group, device: str | None, threads: int) -> None:
    """A job's process."""
    signals.take_over()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:  # imported by the server, before this was known
        sys.modules["torch"].set_num_threads(threads)
    with StopRequest() as stop:
        threading.Thread(target=_stop_with_parents, daemon=True).start()
        _train(cloudpickle.loads(payload), group, device, stop)
    end_job()
    if stop.requested:
        sys.exit(TO_BE_CONTINUED)


def _train(work: Work, group: Group, device: str | None, stop: StopRequest) -> None:
    """Train the runs of a job; refuse them if the device is missing, rather than train on the CPU."""
    if device is not None and work.config.get("device") != "cpu":
        import torch

        if not torch.cuda.is_available():
            note = (
                f"hydra.launcher.devices: PyTorch sees no GPU with CUDA_VISIBLE_DEVICES={device}; name devices of this"
                " machine, or train on the CPU with hydra.launcher.devices=[]"
            )
            jobs.mark_open(work, group, note, REFUSED)
            return
    jobs.run_group(work, group, stop, shared_terminal=True)


def _stop_with_parents() -> None:
    """Stop this job, with a checkpoint, when its launcher or server is killed."""
    launcher, server = multiprocessing.parent_process(), os.getppid()
    assert launcher is not None
    while os.getppid() == server and not connection.wait([launcher.sentinel], _POLL_SECONDS):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
