"""How many images a second are decoded, and how many cores a GPU needs: `python -m benchmarks.decoding`.

One core's rate is images for a second of processor time, which other load on the machine disturbs little; that of
several processes is by the clock. Means over all images, medians over the rounds.

Without --root a folder of made-up images is used that are about as large as ImageNet's, in pixels and in bytes. The
rate at which the GPU trains is measured where there is one (--model, bf16, the phases' batches), or given by --rate for
224 pixels; the other sizes then have the rate of as many multiply-adds a second.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import device, interleaved, machine
from benchmarks.networks import Steps
from farkas_exp.data.files.copies import copy_for, copy_root
from farkas_exp.data.files.decode import RandomCrop, View
from farkas_exp.data.files.listing import ImageFiles, list_images
from farkas_exp.data.files.pool import DecodingPool, Request, workers_for
from farkas_exp.data.files.resize import Reduction, resize_folder
from farkas_exp.measures.work import multiply_adds
from farkas_exp.models.create import create_model
from scripts.make_image_folder import make_folder

PHASES = {128: (1024, 0.08), 224: (448, 0.087), 288: (256, 0.5)}
"""Global batch and least crop of the phases of finlay29, by image size."""
COPIES = (160, 320)
BATCH = 64


Clock = Callable[[], float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("--root", type=Path, help="a folder that holds train/<class>/* and val/<class>/*")
    parser.add_argument("--images", type=int, default=256, help="how many images are decoded in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[workers_for()], help="numbers of processes to try")
    parser.add_argument("--model", default="resnet50_imagenet", help="the network whose training rate is measured")
    parser.add_argument(
        "--rate", type=float, help="images/s that the GPU trains at 224 pixels, in place of a measurement"
    )
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = given.root
        if root is None:
            root = Path(folder) / "made"
            make_folder(root, classes=8, train=-(-given.images // 8), val=1, size=300, noise=14.0)
        found = measure(root, Path(folder), given)
    print(text(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(root: Path, scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Images/s of one core and of several, and the GPU's rate, by image size."""
    files = list_images(str(root)).train
    files = files.part(torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[: given.images].numpy())
    sources = {"originals": files} | copies(root, scratch, files)
    candidates: dict[str, tuple[Callable[[], None], Clock]] = {}
    pools = [DecodingPool(workers) for workers in given.workers]
    for size in PHASES:
        for name, source, draft in variants(sources, size):
            candidates[f"{size} px, {name}"] = reader(DecodingPool(0), source, size, draft), time.process_time
        for pool in pools:
            name = f"{size} px, draft, {pool.workers} process{'es' * (pool.workers > 1)}"
            candidates[name] = reader(pool, files, size, True), time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(1 + given.rounds):  # the first warms files and processes up
        for name, (run, clock) in candidates.items():
            started = clock()
            run()
            seconds[name] += [clock() - started] * (number > 0)
    for pool in pools:
        pool.close()
    rates = {name: len(files) / statistics.median(values) for name, values in seconds.items()}
    gpu, how = training_rates(given)
    return {
        "machine": machine(), "images": len(files), "mean_bytes": float(files.sizes.mean()), "images_per_second": rates,
        "training_images_per_second": gpu, "training_rate_from": how,
    }  # fmt: skip


def copies(root: Path, scratch: Path, files: ImageFiles) -> dict[str, ImageFiles]:
    """The files in the copies that lie beside the root, or in ones made for the made-up images."""
    found = {}
    for size in COPIES:
        target = copy_root(root, size)
        if not target.is_dir() and scratch in root.parents:
            resize_folder(list_images(str(root)), target, Reduction(size), 0, lambda done: None)
        if target.is_dir():
            found[f"copy of {size}"] = files.moved(root.absolute(), target.absolute())
    return found


def variants(sources: dict[str, ImageFiles], size: int) -> Iterator[tuple[str, ImageFiles, bool]]:
    """What is compared for an image size: name, files, and whether JPEGs are read no larger than needed."""
    yield "whole image", sources["originals"], False
    yield "draft", sources["originals"], True
    copy = copy_for(size, COPIES)
    if copy is not None and f"copy of {copy}" in sources:
        yield f"draft, copy of {copy}", sources[f"copy of {copy}"], True


def reader(pool: DecodingPool, files: ImageFiles, size: int, draft: bool) -> Callable[[], None]:
    """A function that decodes training crops of all files once."""
    paths = files.paths()
    views: list[View] = [RandomCrop(number, PHASES[size][1], True) for number in range(len(paths))]
    starts = range(0, len(paths), BATCH)
    wanted = [Request(paths[s : s + BATCH], views[s : s + BATCH], size, size, draft) for s in starts]

    def run() -> None:
        for _ in pool.batches(wanted, BATCH * size * size * 3):
            pass

    return run


def training_rates(given: argparse.Namespace) -> tuple[dict[int, float], str]:
    """Images/s that a GPU trains at each size, and where the figures are from; nothing without a GPU and a rate."""
    if given.rate is None and device().type != "cuda":
        return {}, "no GPU here, and no --rate"
    if given.rate is None:
        return {size: training_rate(given.model, size, batch) for size, (batch, _) in PHASES.items()}, "measured"
    with torch.device("meta"):
        model = create_model(given.model, 1000, normalization="batch", image_size=224).eval()
        work = {size: multiply_adds(model, torch.empty(1, 3, size, size)) for size in PHASES}
    return {size: given.rate * work[224] / work[size] for size in PHASES}, f"--rate={given.rate:g} at 224 pixels"


def training_rate(name: str, size: int, batch: int, steps: int = 20) -> float:
    """Images/s of training steps in bf16, the images already on the GPU."""
    how: dict[str, Any] = {"precision": "bf16", "image_size": size, "classes": 1000}
    step = Steps(name, batch, normalization="batch", aggregation="mean", **how)
    (seconds,) = interleaved({"steps": lambda: [step() for _ in range(steps)]}, rounds=1)["steps"]
    return steps * batch / seconds


def text(found: dict[str, Any]) -> str:
    """The table for the terminal: images/s, and how many cores of that speed feed one GPU."""
    gpu = found["training_images_per_second"]
    lines = [
        f"{found['machine']['processor']}, load {found['machine']['load']:.1f}; {found['images']} images of"
        f" {found['mean_bytes'] / 1000:.0f} KB; training rate: {found['training_rate_from']}",
        "",
        "| decoded | images/s | cores for one GPU |",
        "|---|---:|---:|",
    ]
    for name, rate in found["images_per_second"].items():
        size = int(name.split()[0])
        needed = f"{gpu[size] / rate:.0f} (at {gpu[size]:,.0f}/s)" if size in gpu and "process" not in name else ""
        lines.append(f"| {name} | {rate:,.0f} | {needed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
