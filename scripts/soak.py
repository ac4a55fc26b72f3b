"""A small sweep on two workers, killed again and again at random moments, against the same sweep left in peace.

    python scripts/soak.py [kills=50] [workers=2] [seed=0] [epochs=40] [runs=6] [folder=DIR]

Every worker gives the same command, over the same runs: as one process, or with the local launcher and two jobs, some
with W&B offline. What is killed is drawn each time: the command's process, one of its jobs, the server that they are
forked from, W&B's service, or the whole process group, by SIGKILL or SIGTERM; while it starts, trains, evaluates or
writes a checkpoint. When the sweep is done before the last kill, it starts over in another folder. In the end all must
be as in the undisturbed sweep, bit for bit: weights, optimizer, random state, metrics (without gaps or doubles),
diagnostics and results, apart from their times; and no temporary file may be left. A process that lives on for more
than 30 s after its command was ended is a failure. The exit status says whether all is well.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from farkas_exp import runs
from farkas_exp.runs import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
SWEEP = [
    "-m", "model=farkasnet18", "model.blocks=[1,1]", "model.widths=[4,8]", "normalization=none,batch", "dataset=digits",
    "dataset.train_limit=400", "augmentation=cutout", "augmentation.cutout=2", "augmentation.crop_padding=1",
    "batch_size=20", "device=cpu", "wandb.mode=disabled", "progress=none", "failure.epochs=0",
    "checkpoint.every_minutes=0.001", "diagnostics.epochs=[0,1,5]",
]  # fmt: skip
TIMES = {"time", "epoch_seconds", "images_per_second", "seconds"}
"""What may differ between two equal runs."""
LAUNCHER = ["hydra/launcher=local_parallel", "hydra.launcher.n_jobs=2", "hydra.launcher.threads=1"]
VICTIMS = {
    "process": signal.SIGKILL, "job": signal.SIGKILL, "server": signal.SIGKILL, "wandb": signal.SIGKILL,
    "group": signal.SIGKILL, "group asked": signal.SIGTERM,
}  # fmt: skip
"""What is ended, and how. The group is asked as `timeout` and `scancel` do it."""
ENDS_THE_COMMAND = ("process", "group", "group asked")
SURVIVAL_SECONDS = 30.0
"""So long a process may outlive its command."""


@dataclass(frozen=True)
class Process:
    """A process of a command, as /proc shows it."""

    pid: int
    parent: int
    command: str


def processes_of(session: int) -> list[Process]:
    """The living processes of a session: a command and all that it has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if fields[0] not in "ZX" and int(fields[3]) == session:
            found.append(Process(int(folder.name), int(fields[1]), command))
    return found


def targets(session: int, victim: str) -> list[int]:
    """The processes that a kill of this kind may hit now."""
    everyone = processes_of(session)
    servers = [p.pid for p in everyone if p.parent == session and "multiprocessing.forkserver" in p.command]
    jobs = [p.pid for p in everyone if p.parent in servers]
    mirrors = [p.pid for p in everyone if "wandb-core" in p.command]
    return {"server": servers, "job": jobs, "wandb": mirrors}.get(victim, [session])


class Soak:
    """Kills processes of the sweep until `kills` have died."""

    def __init__(self, folder: Path, kills: int, workers: int, seed: int, epochs: int, runs: int) -> None:
        self.folder, self.workers, self.seed, self.epochs, self.runs = folder, workers, seed, epochs, runs
        self.left, self.guard = kills, threading.Lock()
        self.moments = {"while it starts": 0, "while it trains": 0}
        self.victims = dict.fromkeys(VICTIMS, 0)
        self.survivors: list[str] = []

    def start(self, runs_dir: Path, *more: str) -> "subprocess.Popen[bytes]":
        """A process of the sweep, with one thread: the number of threads decides the last bits."""
        seeds = ",".join(map(str, range(-(-self.runs // 2))))  # each with and without batch normalization
        own = [f"epochs={self.epochs}", f"seed={seeds}", f"runs_dir={runs_dir}", *more]
        command = [sys.executable, "-m", "farkas_exp", *SWEEP, *own]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    def run(self) -> list[str]:
        """All rounds; returns what is not as it should be."""
        begin = time.monotonic()
        peace = self.folder / "undisturbed"
        assert self.start(peace).wait() == 0, "the undisturbed sweep fails"
        print(f"undisturbed sweep: {len(runs.collect(peace))} runs in {time.monotonic() - begin:.0f} s", flush=True)
        wrong: list[str] = []
        number = 0
        while self.left > 0:
            number += 1
            disturbed = self.folder / f"round_{number}"
            before = sum(self.moments.values())
            self.disturb(disturbed, number)
            kills = sum(self.moments.values()) - before
            found = compare(peace, disturbed) + self.survivors
            self.survivors = []
            print(f"round {number}: {kills} kills; {'; '.join(found) or 'everything is as undisturbed'}", flush=True)
            wrong += found
        print(f"kills: {', '.join(f'{count} {moment}' for moment, count in self.moments.items())}")
        print(f"of: {', '.join(f'{victim} {count}' for victim, count in self.victims.items())}")
        print(f"{'FAILED' if wrong else 'passed'} after {time.monotonic() - begin:.0f} s", flush=True)
        return wrong

    def disturb(self, runs_dir: Path, number: int) -> None:
        """One round: workers that are killed until the sweep or the kills are at their end; then it is let finish."""
        threads = [
            threading.Thread(target=self.work, args=(runs_dir, random.Random(f"{self.seed}.{number}.{worker}")))
            for worker in range(self.workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.start(runs_dir).wait() == 0, "the last call of the sweep does not finish it"

    def work(self, runs_dir: Path, dice: random.Random) -> None:
        """Start the sweep and kill it or a part of it at random moments, until it ends by itself or no kill is left."""
        process = None
        while self.may_kill():
            if process is None or process.poll() is not None:
                launcher = LAUNCHER if dice.random() < 0.6 else []
                mirror = ["wandb.mode=offline"] if dice.random() < 0.4 else []
                process = self.start(runs_dir, *launcher, *mirror)
            moment = "while it starts" if dice.random() < 0.2 else "while it trains"
            if moment == "while it trains":
                while process.poll() is None and not trains(runs_dir, process.pid):
                    time.sleep(0.02)
            try:
                process.wait(dice.uniform(0, 1.5))
                with self.guard:
                    self.left += 1
                return
            except subprocess.TimeoutExpired:
                victim = self.kill(process, dice)
            with self.guard:
                self.moments[moment] += 1
                self.victims[victim] += 1
        if process is not None:
            process.wait()

    def kill(self, process: "subprocess.Popen[bytes]", dice: random.Random) -> str:
        """End what is drawn of the command; after its own end nothing of it may live on."""
        possible = [victim for victim in VICTIMS if targets(process.pid, victim)]
        victim = dice.choice(possible)
        for pid in targets(process.pid, victim)[:1]:
            with suppress(ProcessLookupError):
                (os.killpg if victim.startswith("group") else os.kill)(pid, VICTIMS[victim])
        if victim in ENDS_THE_COMMAND:
            deadline = time.monotonic() + SURVIVAL_SECONDS
            while (process.poll() is None or processes_of(process.pid)) and time.monotonic() < deadline:
                time.sleep(0.05)
            for survivor in processes_of(process.pid):
                self.survivors.append(
                    f"process {survivor.pid} outlives its command ({victim}): {survivor.command[:80]}"
                )
                with suppress(ProcessLookupError):
                    os.kill(survivor.pid, signal.SIGKILL)
            process.wait()
        return victim

    def may_kill(self) -> bool:
        """Take one of the kills that are left, if any is."""
        with self.guard:
            if self.left == 0:
                return False
            self.left -= 1
            return True


def trains(runs_dir: Path, session: int) -> bool:
    """Whether the command, or a job of it, has begun to train one of the runs."""
    pids = {process.pid for process in processes_of(session)}
    states = (runs.read_json(path) or {} for path in runs_dir.glob("*/seed_*/state.json"))
    return any(state.get("pid") in pids and state.get("state") == runs.RUNNING for state in states)


def compare(expected: Path, got: Path) -> list[str]:
    """Every difference between two sweeps, in words."""
    wrong = [f"stray file {path}" for path in got.rglob("*.tmp") if "wandb" not in path.parts]
    pairs = {record.path.relative_to(expected): record for record in runs.collect(expected)}
    found = {record.path.relative_to(got): record for record in runs.collect(got)}
    if found.keys() != pairs.keys():
        wrong.append(f"runs {sorted(map(str, found))}")
    for name in found.keys() & pairs.keys():
        first, second = RunDirectory(expected / name), RunDirectory(got / name)
        names = files(second.path)
        if names != files(first.path):
            wrong.append(f"{name}: files {names}")
        epochs = [row["epoch"] for row in runs.read_rows(second.metrics)]
        if epochs != list(range(1, pairs[name].epochs + 1)):
            wrong.append(f"{name}: epochs {epochs}")
        for what in ("metrics", "diagnostics"):
            if timeless(runs.read_rows(getattr(first, what))) != timeless(runs.read_rows(getattr(second, what))):
                wrong.append(f"{name}: {what} differ")
        if timeless(pairs[name].result) != timeless(found[name].result):
            wrong.append(f"{name}: results differ")
        states = [torch.load(run.checkpoint, weights_only=True) for run in (first, second)]
        if not all(same(states[0][key], states[1][key]) for key in ("model", "optimizer", "rng")):
            wrong.append(f"{name}: weights differ")
    return wrong


def files(folder: Path) -> list[str]:
    """The names in a run directory, apart from W&B's folder."""
    return sorted(path.name for path in folder.iterdir() if path.name != "wandb")


def timeless(value: Any) -> str:
    """`value` as text without the times in it."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key not in TIMES}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(without(value), sort_keys=True)


def same(first: Any, second: Any) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def main() -> int:
    """Read the command line and run."""
    numbers = {"kills": 50, "workers": 2, "seed": 0, "epochs": 40, "runs": 6}
    folder = None
    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        if key == "folder" and value:
            folder = Path(value)
        elif key in numbers and value.isdecimal() and (int(value) > 0 or key in ("kills", "seed")):
            numbers[key] = int(value)
        else:
            wanted = ", ".join(f"{name}=NUMBER" for name in numbers)
            print(
                f"error: {argument}: give {wanted} (at least one worker, epoch and run) or folder=DIR", file=sys.stderr
            )
            return 2
    with tempfile.TemporaryDirectory() as temporary:
        return int(bool(Soak(folder or Path(temporary), **numbers).run()))


if __name__ == "__main__":
    sys.exit(main())
