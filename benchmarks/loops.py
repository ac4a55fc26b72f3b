"""What surrounds the training step: the input pipeline, the trainer, and several runs at once."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as image_ops

from benchmarks.measure import device, interleaved, medians, ratio
from farkas_exp.config import parse
from farkas_exp.config.schema import AugmentationConfig
from farkas_exp.data.base import Arrays, Batching
from farkas_exp.data.device import DeviceData
from farkas_exp.machine.processes import ALONE
from farkas_exp.machine.signals import StopRequest
from farkas_exp.training.session import build_trainer
from farkas_exp.training.trainer import Trainer, TrainerState

ROOT = Path(__file__).resolve().parent.parent
LOADER_WORKERS = 2


class _Pictures(Dataset):
    """Images with the paper's augmentation by torchvision's transforms, one at a time."""

    def __init__(self, arrays: Arrays, count: int) -> None:
        self.pictures = [image_ops.to_pil_image(image.permute(2, 0, 1)) for image in arrays.train_images[:count]]
        self.labels = arrays.train_labels[:count].tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), _cutout]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def _cutout(image: torch.Tensor, size: int = 16) -> torch.Tensor:
    """Fill a 16 x 16 square, clipped at the border, with its own mean colour."""
    row, column = torch.randint(image.shape[1], (2,)).tolist()
    rows = slice(max(0, row - size // 2), row + size // 2)
    columns = slice(max(0, column - size // 2), column + size // 2)
    image[:, rows, columns] = image[:, rows, columns].mean((1, 2), keepdim=True)
    return image


def bench_pipeline(quick: bool = False) -> dict[str, Any]:
    """Images/s of crop, flip and cutout, batch 128: ours against a DataLoader with two workers, its workers warm."""
    count, sampled = (1024, 256) if quick else (50_000, 6_400)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    arrays = Arrays("random", tuple(map(str, range(10))), pixels, labels, pixels[:128], labels[:128])
    ours = DeviceData(arrays, AugmentationConfig(), Batching(128, 0, device()))
    loader = DataLoader(
        _Pictures(arrays, sampled), 128, shuffle=True, drop_last=True, num_workers=LOADER_WORKERS,
        persistent_workers=True, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip

    def run_loader() -> None:
        for images, targets in loader:
            images.to(device(), non_blocking=True), targets.to(device(), non_blocking=True)

    def run_ours() -> None:
        for _ in ours.train_batches(0):
            pass

    seconds = interleaved({"ours": run_ours, "loader": run_loader}, rounds=2 if quick else 5)
    middle = medians(seconds)
    rates = {"ours": ours.steps_in(0) * 128 / middle["ours"], "loader": sampled // 128 * 128 / middle["loader"]}
    gains = ratio(seconds, "loader", "ours") * (ours.steps_in(0) * 128) / (sampled // 128 * 128)
    return {"images_per_second": rates, "ours_over_loader": gains, "loader_workers": LOADER_WORKERS}


def bench_trainer(quick: bool = False) -> Iterator[dict[str, Any]]:
    """An epoch of the trainer against a hand-written loop over the same network, data and optimizer."""
    cases = {
        "resnet18, 32x32, batch 128": {"batch_size": 128, "dataset": _synthetic(32, 768)},
        "farkasnet18, 8x8, batch 16": {"batch_size": 16, "dataset": _synthetic(8, 640)},
    }
    for name, case in list(cases.items())[1 if quick else 0 :]:
        values = {"model": {"name": name.split(",")[0]}, "lr": {"value": 0.01}, **case}
        values["augmentation"] = {"crop_padding": 1, "cutout": 2}
        candidates = {"trainer": _trainer_epoch({**values, "compile": "none"}), "bare": _bare_epoch(values)}
        if device().type == "cuda":
            candidates["trainer, graph"] = _trainer_epoch({**values, "compile": "graph"})
        seconds = interleaved(candidates, rounds=2 if quick else 9)
        yield {"case": name, "seconds": medians(seconds), "trainer_over_bare": ratio(seconds, "trainer", "bare")}


def _synthetic(size: int, count: int) -> dict[str, Any]:
    return {"name": "synthetic", "image_size": size, "train_size": count, "test_size": 64, "num_classes": 10}


def made_trainer(values: dict[str, Any]) -> Trainer:
    """The trainer of a configuration, alone on the device that is measured."""
    return build_trainer(parse({**values, "wandb": {"mode": "disabled"}}), ALONE)


def _trainer_epoch(values: dict[str, Any]) -> Callable[[], None]:
    trainer = made_trainer(values)
    return lambda: trainer.train_epoch(TrainerState(), StopRequest()) and None


def _bare_epoch(values: dict[str, Any]) -> Callable[[], None]:
    parts = made_trainer({**values, "compile": "none"})

    def epoch() -> None:
        parts.model.train()
        for images, labels in parts.data.train_batches(0):
            loss = F.cross_entropy(parts.model(images), labels)
            parts.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            parts.optimizer.step()

    return epoch


def bench_packing(quick: bool = False) -> Iterator[dict[str, Any]]:
    """One command with several seeds: one run after the other, and several at once. Whole commands, start included."""
    on_gpu = device().type == "cuda"
    runs = 2 if quick else 8 if on_gpu else 4
    if on_gpu:
        workload = ["model=farkasnet34", "dataset=synthetic", "dataset.train_size=25600", "epochs=10"]
    else:
        workload = ["model=farkasnet18", "dataset=digits", "batch_size=16", "epochs=2"]
    if quick:
        workload += ["model.blocks=[1,1]", "model.widths=[4,8]", "dataset.train_limit=64"]
    for packing in (1, 2, 4, 8) if on_gpu and not quick else (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            arguments = [
                "-m", f"packing={packing}", f"seed=range(0,{runs})", *workload, f"runs_dir={folder}",
                "wandb.mode=disabled", "progress=none", "failure.epochs=0",
            ]  # fmt: skip
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "farkas_exp", *arguments],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
            seconds = time.perf_counter() - started
        yield {"packing": packing, "runs": runs, "seconds": seconds, "seconds_per_run": seconds / runs}
