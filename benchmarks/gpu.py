"""Training steps on a GPU: eager and recorded, in three precisions, against what the card can do at best.

    python -m benchmarks.gpu [--out FILE] [--depths 18 34 50 101] [--precisions fp32 tf32 bf16] [--modes graph library]

Prints the figures of each part, of the steps after each depth, and writes all so far as JSON. Candidates take turns;
medians and ratios of the same round are shown.
The goals: FarkasNet / ResNet at most 1.2, the trainer at most 1.03 times the bare recorded step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.loops import made_trainer
from benchmarks.measure import interleaved, machine, matmul_rate, medians, ratio, synchronize
from benchmarks.networks import Steps
from farkas_exp.layers.paths import single_precision
from farkas_exp.machine.signals import StopRequest
from farkas_exp.measures.work import multiply_adds
from farkas_exp.models.create import create_model
from farkas_exp.training.execution import WARM_UP_STEPS, CapturedStep
from farkas_exp.training.optimizer import keep_rates
from farkas_exp.training.trainer import TrainerState

GPU = torch.device("cuda")
BATCH = 128
STEPS = 20
"""Of a candidate in a round."""
PRECISIONS = ("fp32", "tf32", "bf16")
MODES = ("eager", "library", "graph")
"""Of a step: eager in the first precision, recorded with the library's convolutions, recorded."""
PRODUCT, COPIED = 8192, 2**30
"""Rows and columns of a matrix, and values, that show what the card can do at best."""
STEPS_OF_THE_TRAINER = 100
STEPS_OF_A_RUN = 200 * (50_000 // BATCH)
CHANNELS = ((16, 16), (17, 18), (24, 24), (32, 32), (33, 34), (40, 40), (64, 64), (67, 68), (72, 72))
"""Of a convolution: as a ResNet has them, as a FarkasNet has them, and those padded to the next multiple of 8."""


class RunOfSteps(Steps):
    """Training steps, eager or recorded with the optimizer's; calling it does `STEPS`."""

    def __init__(
        self, name: str, mode: str = "graph", precision: str = "fp32", *, channels_last: bool = True,
        library: bool = False,
    ) -> None:  # fmt: skip
        without = ["one_pass"] if library else []
        super().__init__(name, BATCH, channels_last=channels_last, precision=precision, without=without)
        self.step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = self._update
        if mode == "graph":
            keep_rates(self.optimizer, GPU)
            self.step = CapturedStep(self._update)
        self._run(WARM_UP_STEPS + 1)
        synchronize()

    def _update(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = self._backward(images, labels)
        self.optimizer.step()
        return loss

    def _run(self, steps: int) -> None:
        with single_precision(self.precision == "tf32"):
            for _ in range(steps):
                self.step(self.images, self.labels)

    def __call__(self) -> None:
        """Do `STEPS` steps."""
        self._run(STEPS)


def milliseconds(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of one step of each candidate."""
    return {name: 1e3 * value / STEPS for name, value in medians(seconds).items()}


def recorded(function: Callable[[], Any], repeats: int = 100) -> float:
    """Microseconds of a function on the device: of `repeats` calls in one recording."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            function()
    seconds = interleaved({"replay": graph.replay}, rounds=5)["replay"]
    return 1e6 * statistics.median(seconds) / repeats


def ceilings() -> dict[str, float]:
    """What the card does at best: products, copies, and the launches of a recording."""
    found = {}
    for name in PRECISIONS:
        with single_precision(name == "tf32"):
            rate = matmul_rate(torch.bfloat16 if name == "bf16" else torch.float32, PRODUCT)
        found[f"{name}_tflops"] = rate / 1e12
    big = torch.empty(COPIED, device=GPU)
    other = torch.empty_like(big)
    seconds = interleaved({"copy": lambda: other.copy_(big)}, rounds=5, warm_up=2)["copy"]
    found["copy_tb_s"] = 2 * 4 * COPIED / min(seconds) / 1e12
    small = torch.zeros(1, device=GPU)
    found["launch_us"] = recorded(lambda: small.add_(1), 500)
    activations = torch.rand(BATCH, 16, 32, 32, device=GPU)
    found["relu_of_8_mb_us"] = recorded(activations.relu_)
    return found


def bench_steps(depths: list[str], rounds: int, precisions: list[str], modes: list[str]) -> Iterator[dict[str, Any]]:
    """Both networks, depth after depth, by these modes and precisions."""
    for depth in depths:
        candidates = {
            f"{kind} {mode} {precision}": RunOfSteps(
                f"{kind}{depth}", "eager" if mode == "eager" else "graph", precision, library=mode == "library"
            )
            for precision in precisions
            for kind in ("resnet", "farkasnet")
            for mode in MODES
            if mode in modes and (mode != "eager" or precision == precisions[0])
        }
        seconds = interleaved(candidates, rounds=rounds)
        row: dict[str, Any] = {"depth": depth, "milliseconds": milliseconds(seconds)}
        row["macs"] = {
            kind: multiply_adds(create_model(f"{kind}{depth}"), torch.rand(1, 3, 32, 32))
            for kind in ("resnet", "farkasnet")
        }
        row["farkas_over_resnet"] = {
            how: ratio(seconds, f"farkasnet {how}", f"resnet {how}")
            for how in sorted({name.partition(" ")[2] for name in candidates})
        }
        row["library_over_ours"] = {
            f"{kind} {precision}": ratio(seconds, f"{kind} library {precision}", f"{kind} graph {precision}")
            for kind in ("resnet", "farkasnet")
            for precision in precisions
            if {"library", "graph"} <= set(modes)
        }
        del candidates
        yield row


def bench_layouts(rounds: int) -> dict[str, float]:
    """Recorded steps in both memory formats."""
    candidates = {
        f"{kind} {precision} {'channels_last' if last else 'nchw'}": RunOfSteps(
            f"{kind}34", precision=precision, channels_last=last
        )
        for kind in ("resnet", "farkasnet")
        for precision in ("fp32", "bf16")
        for last in (True, False)
    }
    return milliseconds(interleaved(candidates, rounds=rounds))


def kernels_of(name: str, precision: str = "fp32") -> dict[str, Any]:
    """The kernels of a recorded step: how many, how long together, and the longest."""
    steps = RunOfSteps(name, precision=precision)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        steps()
        synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    longest = sorted(events, key=lambda event: -event.self_device_time_total)
    seconds = interleaved({"steps": steps}, rounds=5)["steps"]
    return {
        "network": name,
        "precision": precision,
        "kernels": sum(event.count for event in events) / STEPS,
        "kernel_ms": sum(event.self_device_time_total for event in events) / 1e3 / STEPS,
        "wall_ms": 1e3 * statistics.median(seconds) / STEPS,
        "longest": [
            (event.key[:90], event.count / STEPS, round(event.self_device_time_total / STEPS, 1))
            for event in longest[:25]
        ],
    }


def bench_channels() -> list[dict[str, Any]]:
    """Microseconds of a 3 x 3 convolution and its derivatives by its channels."""
    rows = []
    for inputs, outputs in CHANNELS:
        side = 32 if inputs < 30 else 16 if inputs < 60 else 8
        row: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "side": side}
        for precision in PRECISIONS:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            shapes = (BATCH, inputs, side, side), (outputs, inputs, 3, 3), (BATCH, outputs, side, side)
            images, weight, given = (
                torch.rand(shape, device=GPU, dtype=dtype).to(memory_format=torch.channels_last) for shape in shapes
            )

            def step(images: torch.Tensor = images, weight: torch.Tensor = weight, given: torch.Tensor = given) -> None:
                F.conv2d(images, weight, padding=1)
                torch.ops.aten.convolution_backward(
                    given, images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
                )

            with single_precision(precision == "tf32"):
                row[precision] = recorded(step, 20)
        rows.append(row)
    return rows


def bench_trainer(rounds: int) -> dict[str, float]:
    """An epoch of the trainer, with its data, against the same number of bare recorded steps."""
    values = {
        "model": {"name": "farkasnet34"}, "lr": {"value": 0.01}, "batch_size": BATCH,
        "dataset": {
            "name": "synthetic", "image_size": 32, "train_size": STEPS_OF_THE_TRAINER * BATCH, "test_size": 64,
            "num_classes": 10,
        },
    }  # fmt: skip
    trainer = made_trainer(values)
    data, steps = trainer.data, RunOfSteps("farkasnet34")

    def epoch() -> None:
        trainer.train_epoch(TrainerState(), StopRequest())

    def bare() -> None:
        for _ in range(data.steps_in(0)):
            steps.step(steps.images, steps.labels)

    def batches() -> None:
        for _ in data.train_batches(0):
            pass

    seconds = interleaved({"trainer": epoch, "bare": bare, "data": batches}, rounds=rounds)
    found = {f"{name}_ms": 1e3 * value / data.steps_in(0) for name, value in medians(seconds).items()}
    return {**found, "trainer_over_bare": ratio(seconds, "trainer", "bare"), "mode": trainer.mode}  # type: ignore[dict-item]


def bench_packing(network: str, counts: list[int], seconds: float = 4.0) -> list[dict[str, Any]]:
    """Recorded steps a second of several processes at once; by MPS where its server runs."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "benchmarks.gpu", "--one-of", str(count), folder, network, str(seconds)]
            running = [
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)
            ]
            shown = [process.communicate()[0].split() for process in running]
        rates = [float(words[-1]) for words in shown if words]
        rows.append({"network": network, "processes": count, "answered": len(rates), "steps_per_second": sum(rates)})
    return rows


def one_of(count: int, folder: Path, network: str, seconds: float) -> float:
    """Steps a second of this process, while all `count` of them run."""
    steps = RunOfSteps(network)
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    steps()
    synchronize()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        steps()
        synchronize()
        done += STEPS
    return done / (time.perf_counter() - started)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--depths", nargs="+", default=["18", "34", "50", "101"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="of the steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 4, 12])
    parser.add_argument("--only", nargs="+", help="some of the parts")
    parser.add_argument("--one-of", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.backends.cudnn.benchmark = True
    if given.one_of:
        count, folder, network, seconds = given.one_of
        print(one_of(int(count), Path(folder), network, float(seconds)))
        return 0
    parts: dict[str, Callable[[], Any]] = {
        "ceilings": ceilings,
        "steps": lambda: bench_steps(given.depths, given.rounds, given.precisions, given.modes),
        "trainer": lambda: bench_trainer(given.rounds),
        "kernels": lambda: [kernels_of(name, how) for name in ("resnet34", "farkasnet34") for how in given.precisions],
        "channels": bench_channels,
        "layouts": lambda: bench_layouts(given.rounds),
        "packing": lambda: bench_packing("farkasnet18", given.processes),
    }
    if unknown := set(given.only or ()) - set(parts):
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; the parts are {', '.join(parts)}")
    results: dict[str, Any] = {"machine": machine(), "batch": BATCH, "steps_of_a_run": STEPS_OF_A_RUN}
    for name, part in parts.items():
        if given.only and name not in given.only:
            continue
        started = time.perf_counter()
        for found in so_far(part):
            results[name] = found
            shown = found[-1:] if isinstance(found, list) else found
            print(f"{name} ({time.perf_counter() - started:.0f} s): {json.dumps(shown)[:6000]}", flush=True)
            if given.out:
                given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def so_far(part: Callable[[], Any]) -> Iterator[Any]:
    """The result of a part; of one that makes rows, the list of those so far after each. An error is its last row."""
    rows: list[Any] = []
    try:
        made = part()
        if not isinstance(made, Iterator):
            yield made
            return
        for row in made:
            rows.append(row)
            yield rows
    except Exception as error:  # noqa: BLE001 - the other parts go on
        reason = f"{type(error).__name__}: {error}"
        yield [*rows, reason] if rows else reason


if __name__ == "__main__":
    sys.exit(main())
