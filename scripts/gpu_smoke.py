"""Try every way of training on a GPU with tiny runs, and say for each whether it works: under two minutes.

    python scripts/gpu_smoke.py [--device cuda] [--at-once 4] [--only NAME ...]

Each is a command of its own, a run of two epochs on digits or on made-up images. What fails is shown with the last
lines that it printed, and the others go on. With --device cpu those that need a GPU are left out. Exit status: 0 all
work, 1 one does not.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from farkas_exp.runs.jsonfiles import read_rows  # noqa: E402

SECONDS = 100
"""A way that takes longer hangs."""
FARKAS = ["model=farkasnet18", "model.blocks=[1,1]", "model.widths=[8,16]", "lr=small", "failure.epochs=0"]
DIGITS = ["dataset=digits", "dataset.train_limit=400", "batch_size=50", "epochs=2"]
QUIET = ["wandb.mode=disabled", "progress=none"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Broken(Exception):  # noqa: N818 - what a trial shows, not a fault of this script
    """A way of training does not work."""


@dataclass(frozen=True)
class Trial:
    """Where a way is tried: its device, and a folder of its own."""

    device: str
    folder: Path

    def command(self, *arguments: str, launch: Sequence[str] = (), runs: str = "runs") -> list[str]:
        """The arguments of a process that trains."""
        runner = launch or [sys.executable]
        place = [f"device={self.device}", f"runs_dir={self.folder / runs}"]
        return [*runner, "-m", "farkas_exp", *FARKAS, *DIGITS, *QUIET, *arguments, *place]

    def train(self, *arguments: str, launch: Sequence[str] = (), runs: str = "runs") -> list[Path]:
        """Train to the end; the folders of the runs.

        Raises:
            Broken: another exit status than 0, or it hangs.
        """
        command = self.command(*arguments, launch=launch, runs=runs)
        try:
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT)
        except subprocess.TimeoutExpired:
            raise Broken(f"no end after {SECONDS} s") from None
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise Broken(f"exit status {done.returncode}\n" + "\n".join(f"    {line}" for line in lines[-8:]))
        return sorted((self.folder / runs).glob("*/seed_*"))


def one(*arguments: str) -> Callable[[Trial], object]:
    """A way that is a single run."""
    return lambda trial: trial.train(*arguments)


def packing(trial: Trial) -> None:
    """Four runs at once."""
    runs = trial.train("-m", "seed=0,1,2,3", "packing=4")
    if len(runs) != 4:
        raise Broken(f"{len(runs)} runs in place of 4")


def torchrun(trial: Trial) -> None:
    """One run in two processes; in one where there is one GPU."""
    processes = 2 if trial.device == "cpu" else min(2, gpus())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    trial.train("compile=none", launch=launch)


def gpus() -> int:
    """How many there are, at least 1."""
    shown = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return max(1, len(shown.splitlines()))


def resume(trial: Trial) -> None:
    """Stopped after its first epoch and continued: the losses of a run left in peace."""
    arguments = ["epochs=6", "checkpoint.every_minutes=0", "compile=none"]
    (whole,) = trial.train(*arguments, runs="whole")
    process = subprocess.Popen(
        trial.command(*arguments), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    deadline = time.monotonic() + SECONDS
    while not list(trial.folder.glob("runs/*/seed_*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if (status := process.wait(SECONDS)) != 75:
        raise Broken(f"exit status {status} in place of 75 after SIGTERM")
    (stopped,) = trial.train(*arguments)
    first, second = losses(whole), losses(stopped)
    if len(first) != len(second) or any(abs(a - b) > 1e-3 * abs(a) for a, b in zip(first, second, strict=True)):
        raise Broken(f"other losses after resuming: {first} and {second}")


def losses(run: Path) -> list[float]:
    """The training losses of a run by epoch."""
    return [row["train_loss"] for row in read_rows(run / "metrics.jsonl")]


def streamed(trial: Trial) -> None:
    """Images that are decoded while the network trains."""
    images = trial.folder / "images"
    made = [sys.executable, str(ROOT / "scripts" / "make_image_folder.py"), str(images), "--classes=4", "--size=40"]
    subprocess.run(made, check=True, capture_output=True, env=ENVIRONMENT)
    trial.train(
        "dataset=streamed_folder", f"dataset.root={images}", "dataset.image_size=32", "dataset.train_limit=null"
    )


@dataclass(frozen=True)
class Way:
    """A way of training."""

    name: str
    try_it: Callable[[Trial], object]
    needs_gpu: bool = False


WAYS = [
    Way("eager", one("compile=none")),
    Way("eager, batch norm", one("compile=none", "normalization=batch")),
    Way("graph", one("compile=graph"), needs_gpu=True),
    Way("compiled", one("compile=default")),
    Way("tf32", one("precision=tf32"), needs_gpu=True),
    Way("bf16", one("precision=bf16")),
    Way("packing", packing),
    Way("torchrun", torchrun),
    Way("resume", resume),
    Way("streamed images", streamed),
    Way("synthetic, normalized", one("dataset=synthetic", "dataset.normalize=true", "dataset.num_classes=10")),
    Way("diagnostics", one("diagnostics.epochs=[0,2]", "diagnostics.measures=[ntk]", "diagnostics.ntk_images=4")),
]


def attempt(way: Way, device: str, folder: Path) -> tuple[str, float]:
    """What is wrong with a way of training ("" if nothing is), and how long it took."""
    begun = time.monotonic()
    own = folder / way.name.replace(" ", "_").replace(",", "")
    own.mkdir()
    try:
        way.try_it(Trial(device, own))
        wrong = ""
    except Broken as broken:
        wrong = str(broken)
    except Exception as error:  # noqa: BLE001 - the others go on
        wrong = f"{type(error).__name__}: {error}"
    return wrong, time.monotonic() - begun


def main(given: Sequence[str] | None = None) -> int:
    """Try the ways and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--only", nargs="*", choices=[way.name for way in WAYS], help="these alone")
    options = parser.parse_args(given)
    chosen = [way for way in WAYS if not options.only or way.name in options.only]
    left_out = [way.name for way in chosen if way.needs_gpu and options.device == "cpu"]
    chosen = [way for way in chosen if way.name not in left_out]
    folder = Path(tempfile.mkdtemp(prefix="gpu_smoke_"))
    failed = 0
    try:
        with ThreadPoolExecutor(options.at_once) as pool:
            answers = pool.map(lambda way: attempt(way, options.device, folder), chosen)
            for way, (wrong, seconds) in zip(chosen, answers, strict=True):
                failed += bool(wrong)
                print(f"{'FAILED' if wrong else 'works':10}{way.name:24}{seconds:5.0f} s  {wrong}".rstrip(), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name in left_out:
        print(f"{'left out':10}{name:24} needs a GPU")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
