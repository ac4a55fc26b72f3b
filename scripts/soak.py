"""A small sweep on two workers, killed again and again at random moments, against the same sweep left in peace.

    python scripts/soak.py [kills=50] [workers=2] [seed=0] [epochs=40] [runs=6] [folder=DIR]

Every worker gives the same command, over the same runs, and is ended by SIGKILL: while it starts, trains, evaluates or
writes a checkpoint. When the sweep is done before the last kill, it starts over in another folder. In the end all must
be as in the undisturbed sweep, bit for bit: weights, optimizer, random state, metrics (without gaps or doubles),
diagnostics and results, apart from their times; and no temporary file may be left. The exit status says whether it is.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
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


class Soak:
    """Kills processes of the sweep until `kills` have died."""

    def __init__(self, folder: Path, kills: int, workers: int, seed: int, epochs: int, runs: int) -> None:
        self.folder, self.workers, self.seed, self.epochs, self.runs = folder, workers, seed, epochs, runs
        self.left, self.guard = kills, threading.Lock()
        self.moments = {"while it starts": 0, "while it trains": 0}

    def command(self, runs_dir: Path) -> list[str]:
        """The sweep's command."""
        seeds = ",".join(map(str, range(-(-self.runs // 2))))  # each with and without batch normalization
        own = [f"epochs={self.epochs}", f"seed={seeds}", f"runs_dir={runs_dir}"]
        return [sys.executable, "-m", "farkas_exp", *SWEEP, *own]

    def start(self, runs_dir: Path) -> "subprocess.Popen[bytes]":
        """A process of the sweep, with one thread: the number of threads decides the last bits."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(self.command(runs_dir), env=environment, stdout=subprocess.DEVNULL)

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
            found = compare(peace, disturbed)
            print(f"round {number}: {kills} kills; {'; '.join(found) or 'everything is as undisturbed'}", flush=True)
            wrong += found
        print(f"kills: {', '.join(f'{count} {moment}' for moment, count in self.moments.items())}")
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
        """Start the sweep and kill it at a random moment, until it ends by itself or no kill is left."""
        while self.may_kill():
            process = self.start(runs_dir)
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
                process.kill()
                process.wait()
            with self.guard:
                self.moments[moment] += 1

    def may_kill(self) -> bool:
        """Take one of the kills that are left, if any is."""
        with self.guard:
            if self.left == 0:
                return False
            self.left -= 1
            return True


def trains(runs_dir: Path, pid: int) -> bool:
    """Whether the process has begun to train one of the runs."""
    states = (runs.read_json(path) or {} for path in runs_dir.glob("*/seed_*/state.json"))
    return any(state.get("pid") == pid and state.get("state") == runs.RUNNING for state in states)


def compare(expected: Path, got: Path) -> list[str]:
    """Every difference between two sweeps, in words."""
    wrong = [f"stray file {path}" for path in got.rglob("*.tmp")]
    pairs = {record.path.relative_to(expected): record for record in runs.collect(expected)}
    found = {record.path.relative_to(got) for record in runs.collect(got)}
    if found != pairs.keys():
        wrong.append(f"runs {sorted(map(str, found))}")
    for name in found & pairs.keys():
        first, second = RunDirectory(expected / name), RunDirectory(got / name)
        names = sorted(path.name for path in second.path.iterdir())
        if names != sorted(path.name for path in first.path.iterdir()):
            wrong.append(f"{name}: files {names}")
        epochs = [row["epoch"] for row in runs.read_rows(second.metrics)]
        if epochs != list(range(1, pairs[name].epochs + 1)):
            wrong.append(f"{name}: epochs {epochs}")
        for what, file in (("metrics", "metrics"), ("diagnostics", "diagnostics")):
            if timeless(runs.read_rows(getattr(first, file))) != timeless(runs.read_rows(getattr(second, file))):
                wrong.append(f"{name}: {what} differ")
        if timeless(runs.read_json(first.result)) != timeless(runs.read_json(second.result)):
            wrong.append(f"{name}: results differ")
        states = [torch.load(run.checkpoint, weights_only=True) for run in (first, second)]
        if not all(same(states[0][key], states[1][key]) for key in ("model", "optimizer", "rng")):
            wrong.append(f"{name}: weights differ")
    return wrong


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
        elif key in numbers and value.isdigit():
            numbers[key] = int(value)
        else:
            print(f"error: {argument}: give {', '.join(f'{k}=NUMBER' for k in numbers)} or folder=DIR", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as temporary:
        return int(bool(Soak(folder or Path(temporary), **numbers).run()))


if __name__ == "__main__":
    sys.exit(main())
