"""Measure everything, print it, and write `results.json` and `results.png`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import layers, loops, networks, tables
from benchmarks.figure import draw
from benchmarks.measure import device, machine, matmul_rate
from farkas_exp.layers.paths import allow_tf32

FOLDER = Path(__file__).parent


def main() -> int:
    """Run the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it works, not how fast")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for results.json and results.png")
    parser.add_argument(
        "--only", nargs="+", choices=list(tables.TABLES), help="some of the benchmarks; no files written"
    )
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "quick": given.quick}
    print(tables.headline(results["machine"]))
    allow_tf32(False)  # as the trainer has it: fp32 is single precision
    dtype = torch.bfloat16 if device().type == "cuda" else torch.float32
    size = 256 if given.quick else 8192 if device().type == "cuda" else 1536
    rate = matmul_rate(torch.float32, size)
    results["matmul"] = {"size": size, "fp32": rate, str(dtype).removeprefix("torch."): matmul_rate(dtype, size)}
    print(f"matrix product of size {size}: {rate / 1e9:.0f} GFLOP/s in fp32")
    for name, run in suites(rate, given.quick).items():
        if given.only and name not in given.only:
            continue
        found = run()
        results[name] = found if isinstance(found, dict) else list(found)
        print(tables.TABLES[name](results[name]), flush=True)
    if not given.only:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        draw(results, given.out / "results.png")
        print(f"\nwritten: {given.out / 'results.json'}, {given.out / 'results.png'}")
    return 0


def suites(matmul: float, quick: bool) -> dict[str, Callable[[], Any]]:
    """The benchmarks by name, the ones that a noisy machine hurts most first."""
    return {
        "networks": lambda: networks.bench_networks(matmul, quick),
        "pipeline": lambda: loops.bench_pipeline(quick),
        "trainer": lambda: loops.bench_trainer(quick),
        "layers": lambda: layers.bench_layers(quick),
        "layouts": lambda: networks.bench_layouts(quick),
        "normalization": lambda: networks.bench_normalization(quick),
        "modes": lambda: networks.bench_modes(quick),
        "packing": lambda: loops.bench_packing(quick),
        "growth": lambda: networks.bench_growth(quick),
    }


if __name__ == "__main__":
    sys.exit(main())
