"""A 3x3 convolution for a CPU whose cost grows with the channels themselves, compiled at its first use.

A residual Farkas block adds one channel: 17, 18, ... Libraries put channels into vector lanes, so 17 of them cost what
24 do, and a FarkasNet34 step takes 1.37 times a ResNet34's where the arithmetic is 1.14 times. `native_conv.cpp` puts
neighbouring pixels into the lanes instead. PyTorch's convolution is the default; with FARKAS_EXP_NATIVE=1 in the
environment this one is used for planar or ill-fitting float32 images on a CPU that has a C++ compiler, outside of
`layers.plain_path`.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from farkas_exp.layers.paths import fused_allowed

SOURCE = Path(__file__).with_name("native_conv.cpp")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
LANES = 8
MIN_IMAGES = 2


def conv2d(input: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """`torch.nn.functional.conv2d`, by the native kernel where it is made for the shapes."""
    if _is_suited(input, weight, stride, padding, dilation):
        return _PlanarConv.apply(input, weight, bias)  # type: ignore[no-any-return]
    return F.conv2d(input, weight, bias, stride, padding, dilation)


def _is_suited(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> bool:
    if torch.compiler.is_compiling() or input.device.type != "cpu" or input.dim() != 4:
        return False
    if not (input.dtype == weight.dtype == torch.float32) or weight.shape[2:] != (3, 3):
        return False
    if any(value not in (1, (1, 1)) for value in (stride, padding, dilation)):
        return False
    images, channels, height, width = input.shape
    fits_lanes = channels % LANES == 0 and weight.shape[0] % LANES == 0
    if images < MIN_IMAGES or (fits_lanes and not input.is_contiguous()):
        return False
    if not (width in (8, 16) or (width and width % 32 == 0)) or (height * width) % 32:
        return False
    return fused_allowed() and not torch.is_autocast_enabled("cpu") and available()


def available() -> bool:
    """Whether the native kernel is asked for and can be used on this machine; compiles it at the first call."""
    return os.environ.get("FARKAS_EXP_NATIVE") == "1" and _library() is not None


class _PlanarConv(torch.autograd.Function):
    """The native convolution, with the images shared out over PyTorch's number of threads."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        input, weight = input.contiguous(), weight.contiguous()
        ctx.save_for_backward(input, weight)
        return _convolve(input, weight, bias.contiguous())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        needs = list(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # a second derivative is asked for
            return torch.ops.aten.convolution_backward(
                gradients[0], input, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, needs
            )
        gradient = gradients[0].contiguous()
        to_input = _convolve(gradient, weight, None) if needs[0] else None
        if not (needs[1] or needs[2]):
            return to_input, None, None
        to_weight, to_bias = _parameter_gradients(input, gradient)
        return to_input, to_weight, to_bias


def _convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution with a bias; without one, the gradient with respect to the input, from that of the output."""
    images, inputs, height, width = input.shape
    outputs = weight.shape[1 if bias is None else 0]
    output = input.new_empty(images, outputs, height, width)

    def part(first: int, last: int) -> int:
        return _library().farkas_conv3x3(  # type: ignore[union-attr]
            _at(input[first]), _at(weight), None if bias is None else _at(bias), _at(output[first]), last - first,
            inputs, outputs, height, width, int(bias is None),
        )  # fmt: skip

    _share_out(part, images)
    return output


def _parameter_gradients(input: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients with respect to the weight and the bias."""
    images, inputs, height, width = input.shape
    outputs = gradient.shape[1]
    borders = _borders(images)
    weights, biases = input.new_zeros(len(borders), outputs, inputs, 3, 3), input.new_zeros(len(borders), outputs)

    def part(first: int, last: int) -> int:
        number = borders.index((first, last))
        return _library().farkas_conv3x3_weight(  # type: ignore[union-attr]
            _at(input[first]), _at(gradient[first]), _at(weights[number]), _at(biases[number]), last - first,
            inputs, outputs, height, width,
        )  # fmt: skip

    _share_out(part, images)
    return weights.sum(0), biases.sum(0)


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _borders(images: int) -> list[tuple[int, int]]:
    """An even share of the images for each thread."""
    threads = min(torch.get_num_threads(), images)
    return [(images * i // threads, images * (i + 1) // threads) for i in range(threads)]


def _share_out(part: Callable[[int, int], int], images: int) -> None:
    borders = _borders(images)
    # ctypes gives the interpreter free while the kernel runs.
    others = [_pool(os.getpid()).submit(part, *border) for border in borders[1:]]
    failed = part(*borders[0]) | sum(other.result() for other in others)
    if failed:
        raise MemoryError("the native convolution found no memory for its working space")


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked one needs its own."""
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="native_conv")


@functools.lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The compiled kernel, from the user's cache or compiled into it; None where that is not possible or is wrong."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    try:
        library = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None
    # As addresses, which would not fit into the int that ctypes takes a number for.
    library.farkas_conv3x3.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int] * 6
    library.farkas_conv3x3_weight.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int] * 5
    return library


def _compiled(compiler: str) -> Path:
    """The path of the shared library for this source, compiler and processor."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")][:1] if cpuinfo.exists() else []
    )
    parts = [SOURCE.read_text(encoding="utf-8"), compiler, *FLAGS, platform.machine(), *flags]
    name = f"native_conv-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farkas_exp"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / name
            subprocess.run(
                [compiler, *FLAGS, "-o", str(made), str(SOURCE)], check=True, capture_output=True, timeout=120
            )
            os.replace(made, path)
    return path
