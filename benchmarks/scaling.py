"""The scaling page: what each table costs in time and money, worked out from `results.json` into docs/scaling.md.

hours of a run   = epochs * images / (images per second) * (batch norm's factor, where it has one) / 3600
hours of a table = sum over its runs;  on D devices: the runs are handed out, the longest first
money            = device hours * price of a device hour
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEPTHS = ("18", "34", "50", "101")
CIFAR_IMAGES, CIFAR_EPOCHS, SEEDS = 50_000, 200, 3
EVALUATION = 10_000 / 50_000 / 3
"""Evaluating 10,000 test images every epoch, as a share of an epoch's training: a third of the arithmetic an image."""
FLOORS = {"H200": 790e12}
"""A measured bf16 matrix-product rate: no training is faster than its arithmetic at this rate."""


@dataclass(frozen=True)
class Run:
    """One run of a table: its network and whether it has batch norm."""

    network: str
    depth: str
    batch_norm: bool


def tables() -> dict[str, list[Run]]:
    """The runs of the paper's CIFAR tables, three seeds a cell. FixUp34 counts as a ResNet34 with batch norm."""
    arms = [(network, batch_norm) for network in ("resnet", "farkasnet") for batch_norm in (True, False)]
    cells = {
        "Table 1 (CIFAR-10)": [Run(network, depth, norm) for network, norm in arms for depth in DEPTHS],
        "Table 2 (CIFAR-100)": [Run(network, depth, norm) for network, norm in arms for depth in DEPTHS[1:]],
        "Table 4 (best practice)": [
            *(Run("resnet", "34", batch_norm) for batch_norm in (True, False, True)),
            Run("farkasnet", "34", False),
        ],
    }
    return {name: [run for run in runs for _ in range(SEEDS)] for name, runs in cells.items()}


def hours(run: Run, results: Mapping[str, Any]) -> float:
    """Hours of one run of 200 epochs at the measured rate, evaluation included."""
    by_depth = {row["depth"]: row["networks"] for row in results["networks"]}
    rate = by_depth[run.depth][run.network]["images_per_second"]
    factors = {row["network"]: row["batch_over_none"] for row in results["normalization"]}
    factor = factors[f"{run.network}34"] if run.batch_norm else 1.0
    return CIFAR_EPOCHS * CIFAR_IMAGES * (1 + EVALUATION) / rate * factor / 3600


def floor_hours(run: Run, results: Mapping[str, Any], rate: float) -> float:
    """Hours of one run whose arithmetic (6 operations a multiply-add, training only) is done at `rate`."""
    by_depth = {row["depth"]: row["networks"] for row in results["networks"]}
    return 6 * by_depth[run.depth][run.network]["macs_per_image"] * CIFAR_EPOCHS * CIFAR_IMAGES / rate / 3600


def makespan(durations: Sequence[float], workers: int) -> float:
    """When the last of `workers` is done, each taking the longest run that is left."""
    loads = [0.0] * workers
    for duration in sorted(durations, reverse=True):
        loads[loads.index(min(loads))] += duration
    return max(loads)


def page(results: Mapping[str, Any], price: float) -> str:
    """The whole page for the machine of `results`, a device hour of which costs `price`."""
    machine = results["machine"]
    measured = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    lines = [
        "# What the tables cost",
        "",
        "<!-- Written by `python -m benchmarks.scaling` from benchmarks/results.json; do not edit. -->",
        "",
        f"Measured by `make bench` on {measured} ({machine['host']}, torch {machine['torch']}, {machine['time']});"
        f" fp32, one run at a time, {CIFAR_EPOCHS} epochs with an evaluation each, {SEEDS} seeds a cell."
        f" A device is what was measured there; its hour is taken as ${price:g} (`--price`).",
        "",
        "| table | runs | one device | 8 devices | Slurm array, a run a task | money |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in tables().items():
        each = [hours(run, results) for run in runs]
        lines.append(
            f"| {name} | {len(runs)} | {_shown(sum(each))} | {_shown(makespan(each, 8))} | {_shown(max(each))} |"
            f" ${price * sum(each):,.2f} |"
        )
    lines += ["", "A Slurm array with as many tasks as runs takes as long as its longest run (queueing not counted)."]
    lines += _packing(results)
    lines += _floors(results)
    lines += [
        "",
        "## Formulas",
        "",
        "- hours of a run = 200 epochs * 50,000 images / (measured images/s) * (1 + 1/15 for evaluation)"
        " * (batch norm's measured factor on 34 layers, where the arm has it) / 3600",
        "- hours of a table on D devices: the runs handed out, the longest first; money: device hours * price",
        "- Table 3 (ImageNet) is not worked out here: its rate has to be measured on the machine that will train it.",
    ]
    return "\n".join(lines) + "\n"


def _packing(results: Mapping[str, Any]) -> list[str]:
    base = results["packing"][0]["seconds"]
    shown = ", ".join(f"packing={row['packing']}: {base / row['seconds']:.2f}" for row in results["packing"][1:])
    return ["", f"Several runs at once on one device, speed-up over one after the other: {shown}. Divide by it."]


def _floors(results: Mapping[str, Any]) -> list[str]:
    if results["machine"]["gpu"]:
        return []
    lines = ["", "## On a GPU", ""]
    lines.append(
        "Steps of 34 layers have been measured on one ([gpu.md](gpu.md)); `make bench` there measures these tables."
    )
    lines.append(
        "The floor: the arithmetic of the training steps at the rate of a bf16 matrix product, which such thin"
    )
    lines.append("networks stay far above.")
    lines += ["", "| table | " + " | ".join(f"floor, one {gpu}" for gpu in FLOORS) + " |"]
    lines += ["|---" * (len(FLOORS) + 1) + "|"]
    for name, runs in tables().items():
        floors = [_shown(sum(floor_hours(run, results, rate) for run in runs)) for rate in FLOORS.values()]
        lines.append(f"| {name} | {' | '.join(floors)} |")
    return lines


def _shown(value: float) -> str:
    return f"{value * 60:.0f} min" if value < 2 else f"{value:.1f} h" if value < 72 else f"{value / 24:.1f} days"


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "scaling.md")
    parser.add_argument(
        "--price", type=float, help="dollars for a device hour (default: 0.10 for a CPU, 3.50 for a GPU)"
    )
    given = parser.parse_args()
    if not given.results.exists():
        print(f"error: {given.results}: no measurements; run `make bench` first", file=sys.stderr)
        return 2
    results = json.loads(given.results.read_text(encoding="utf-8"))
    if results["quick"]:
        print(f"error: {given.results}: of a quick run, whose networks are not the paper's", file=sys.stderr)
        return 2
    price = given.price if given.price is not None else 3.50 if results["machine"]["gpu"] else 0.10
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page(results, price), encoding="utf-8")
    print(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
