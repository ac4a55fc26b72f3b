"""Whole training steps: networks, layouts, compilation, precision, and how the cost grows."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.literal import make_literal
from benchmarks.measure import device, interleaved, kept_bytes, medians, peak_bytes, ratio
from farkas_exp.config.schema import OptimizerConfig
from farkas_exp.kernels import KERNELS
from farkas_exp.measures.work import multiply_adds
from farkas_exp.models.create import create_model
from farkas_exp.training.execution import compile_model
from farkas_exp.training.optimizer import build_optimizer

DEPTHS = ("18", "34", "50", "101")
TRAINING_IMAGES = 50_000
SMALL: dict[str, Any] = {"blocks": (1, 1), "widths": (4, 8)}


class Steps:
    """Training steps of a network on random images; calling it does one."""

    def __init__(
        self, name: str, batch: int = 128, *, literal: bool = False, mode: str = "none", channels_last: bool = True,
        precision: str = "fp32", without: Sequence[str] = (), image_size: int = 32, classes: int = 10, **options: Any,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = torch.rand(batch, 3, image_size, image_size, generator=generator)
        self.images = images.to(device()).to(memory_format=layout)
        self.labels = torch.randint(classes, (batch,), generator=generator).to(device())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: nn.Module = create_model(name, classes, image_size=image_size, **options)
        if literal:
            make_literal(self.model)
        self.model.to(device()).to(memory_format=layout)  # type: ignore[call-overload]
        if not literal:
            for name, swap in KERNELS.items():
                if name not in without:
                    swap(self.model, device())
        self.optimizer = build_optimizer(self.model, OptimizerConfig(), 0.01)
        self.precision = precision
        self.forward = compile_model(self.model, mode)

    def loss(self) -> Tensor:
        """The loss on the images."""
        return self._loss(self.images, self.labels)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device().type, torch.bfloat16, enabled=self.precision == "bf16"):
            return F.cross_entropy(self.forward(images), labels)

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = self._loss(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def __call__(self) -> None:
        """One training step."""
        self._backward(self.images, self.labels)
        self.optimizer.step()


def facts(steps: Steps, seconds: float, matmul: float) -> dict[str, Any]:
    """What a step of `seconds` means: images/s, an epoch of CIFAR-10, its share of the matmul rate, memory."""
    batch = len(steps.images)
    per_image = multiply_adds(steps.model, steps.images)
    return {
        "milliseconds": 1e3 * seconds,
        "images_per_second": batch / seconds,
        "epoch_seconds": TRAINING_IMAGES / batch * seconds,
        "macs_per_image": per_image,
        "share_of_matmul": 6 * per_image * batch / seconds / matmul,
        "kept_bytes": kept_bytes(steps.loss),
        "peak_bytes": peak_bytes(steps),
    }


def bench_networks(matmul: float, quick: bool = False) -> Iterator[dict[str, Any]]:
    """ResNet, FarkasNet, that with the library's convolutions, and the literal one, of every depth, in turns."""
    for depth in DEPTHS[:1] if quick else DEPTHS:
        options = SMALL if quick else {}
        batch = 16 if quick else 128
        candidates = {
            "resnet": Steps(f"resnet{depth}", batch, **options),
            "farkasnet": Steps(f"farkasnet{depth}", batch, **options),
            "library": Steps(f"farkasnet{depth}", batch, without=["native_conv"], **options),
            "literal": Steps(f"farkasnet{depth}", batch, literal=True, **options),
        }
        rounds = {"18": 5, "34": 9, "50": 3, "101": 2}[depth]
        seconds = interleaved(candidates, rounds=2 if quick else rounds)
        middle = medians(seconds)
        yield {
            "depth": depth,
            "batch": batch,
            "farkas_over_resnet": ratio(seconds, "farkasnet", "resnet"),
            "library_over_resnet": ratio(seconds, "library", "resnet"),
            "literal_over_resnet": ratio(seconds, "literal", "resnet"),
            "networks": {name: facts(steps, middle[name], matmul) for name, steps in candidates.items()},
        }


def bench_layouts(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Plain and Farkas networks in both memory formats."""
    return _side_by_side({"channels_last": {}, "nchw": {"channels_last": False}}, quick)


def bench_normalization(quick: bool = False) -> Iterator[dict[str, Any]]:
    """What batch normalization costs."""
    return _side_by_side({kind: {"normalization": kind} for kind in ("none", "batch")}, quick)


def _side_by_side(variants: Mapping[str, Mapping[str, Any]], quick: bool) -> Iterator[dict[str, Any]]:
    """Both networks of 34 layers in two variants, by their options, and the ratio of the second to the first."""
    for name in ("resnet34", "farkasnet34"):
        more = SMALL if quick else {}
        candidates = {kind: Steps(name, 16 if quick else 128, **own, **more) for kind, own in variants.items()}
        seconds = interleaved(candidates, rounds=2 if quick else 3)
        base, other = variants
        yield {"network": name, "seconds": medians(seconds), f"{other}_over_{base}": ratio(seconds, other, base)}


def bench_modes(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Eager against `torch.compile`, of small networks: compiling takes long. On a GPU see `benchmarks.gpu`."""
    options: dict[str, Any] = {"blocks": (1,), "widths": (16,)}
    for name in ("farkasnet18",) if quick else ("resnet18", "farkasnet18"):
        candidates = {"none": Steps(name, **options)}
        preparation: dict[str, float | str] = {}
        try:
            if not quick:
                compiled = Steps(name, mode="default", **options)
                preparation["default"] = _time_of_first_steps(compiled)
                candidates["default"] = compiled
        except Exception as error:  # noqa: BLE001 - no compiler: a finding of its own
            preparation["default"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        seconds = interleaved(candidates, rounds=5, warm_up=2)
        yield {"network": name, "precision": "fp32", "seconds": medians(seconds), "preparation": preparation}


def _time_of_first_steps(steps: Steps) -> float:
    started = time.perf_counter()
    for _ in range(5):
        steps()
    return time.perf_counter() - started


def bench_growth(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Seconds of a step as depth, width and batch grow, plain and Farkas, from a 16-32-64 network of 3 x 3 blocks."""
    axes: dict[str, list[int]] = {"depth": [1, 3, 5, 9], "width": [8, 16, 32, 64], "batch": [32, 128, 512]}
    for axis, values in axes.items():
        for value in values[:1] if quick else values:
            blocks = value if axis == "depth" else 3
            width = value if axis == "width" else 16
            batch = value if axis == "batch" else 64
            options = {"blocks": (blocks,) * 3, "widths": (width, 2 * width, 4 * width)}
            candidates = {kind: Steps(f"{kind}34", batch, **options) for kind in ("resnet", "farkasnet")}
            seconds = interleaved(candidates, rounds=2 if quick else 3)
            yield {
                "axis": axis,
                "value": value,
                "seconds": medians(seconds),
                "farkas_over_resnet": ratio(seconds, "farkasnet", "resnet"),
            }
