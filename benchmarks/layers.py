"""One layer against convolution + bias + ReLU: Farkas natively, in the library's weights, and over the activations."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.literal import make_literal
from benchmarks.measure import device, interleaved, medians, ratio
from farkas_exp.kernels import accelerate, native_conv, native_library
from farkas_exp.kernels.batch_last import BatchLastFarkasConv2d, BatchLastFarkasResidualConv2d
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.residual import FarkasResidualConv2d, ResidualConv2d

SHAPES = [(16, 32), (32, 16), (64, 8), (64, 32), (128, 16), (256, 8)]
QUICK_SHAPES = [(8, 8)]


def bench_layers(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Forward and backward of one layer for each shape and algorithm, batch 128."""
    for channels, size in QUICK_SHAPES if quick else SHAPES:
        for algorithm in (1, 2):
            images = torch.randn(8 if quick else 128, channels, size, size, device=device())
            images = images.to(memory_format=torch.channels_last)
            seconds = interleaved(_candidates(algorithm, channels, images), rounds=2 if quick else 7)
            yield {
                "channels": channels,
                "size": size,
                "algorithm": algorithm,
                "seconds": medians(seconds),
                "farkas": ratio(seconds, "farkas", "plain"),
                "literal": ratio(seconds, "literal", "plain"),
                **({"native": ratio(seconds, "native", "plain")} if "native" in seconds else {}),
            }


def _candidates(algorithm: int, channels: int, images: Tensor) -> dict[str, Callable[[], None]]:
    farkas_type = FarkasConv2d if algorithm == 1 else FarkasResidualConv2d
    plain_type: Any = nn.Conv2d if algorithm == 1 else ResidualConv2d
    native_type = BatchLastFarkasConv2d if algorithm == 1 else BatchLastFarkasResidualConv2d
    made = {
        "plain": plain_type(channels, channels, 3, padding=1),
        "farkas": accelerate(farkas_type(channels, channels, 3, padding=1), images.device),
        "literal": make_literal(farkas_type(channels, channels, 3, padding=1)),
        "native": native_type(channels, channels, 3, padding=1),
    }
    for layer in made.values():
        layer.to(images.device).to(memory_format=torch.channels_last)
    native = images.device.type == "cpu" and native_library.available() and len(images) % native_library.lanes() == 0
    steps = {name: _step(layer, algorithm, images) for name, layer in made.items() if name != "native"}
    if native:
        parts = [_step(made["native"], algorithm, part) for part in native_conv.batch_last_chunks(images)]
        steps["native"] = lambda: [part() for part in parts] and None
    return steps


def _step(layer: Any, algorithm: int, images: Tensor) -> Callable[[], None]:
    activation = Activation("relu")
    hidden, shortcut = images.clone().requires_grad_(), images.clone().requires_grad_()

    def forward() -> Tensor:
        if algorithm == 2:
            return layer.activate(hidden, shortcut, activation)
        if isinstance(layer, BatchLastFarkasConv2d):
            return layer.with_relu(hidden)[0]
        return activation(layer(hidden))

    cotangent = torch.randn_like(forward())

    def step() -> None:
        for tensor in (hidden, shortcut, *layer.parameters()):
            tensor.grad = None
        forward().backward(cotangent)

    return step
