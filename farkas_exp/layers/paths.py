"""The switches of a network: between fused code paths and the plain formulas that they equal, and its mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

_FUSED: ContextVar[bool] = ContextVar("farkas_exp_fused", default=True)


@contextmanager
def plain_path() -> Iterator[None]:
    """Use only the plain formulas within the block (in this thread or task).

    Then every layer and activation is called as a module, so that forward hooks see it.
    """
    token = _FUSED.set(False)
    try:
        yield
    finally:
        _FUSED.reset(token)


def has_hooks(module: nn.Module) -> bool:
    """Whether anything waits for a call of this module, forward or backward."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def fused_allowed() -> bool:
    """Whether fused code paths may be used: not within `torch.func` or forward-mode AD, which do not see through them.

    Nor under `torch.compile`, which fuses the plain formulas itself; not every version of it can trace a `ContextVar`.
    """
    if torch.compiler.is_compiling():
        return False
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return _FUSED.get() and not transformed


def allow_tf32(allowed: bool) -> None:
    """Let a GPU multiply by TF32, which keeps 10 of 23 bits, in this process; or all in full single precision.

    By PyTorch's older switches, which its compiler reads, and then by the newer ones, whatever else is set there.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    for place in _places():
        if place.fp32_precision not in ("none", "ieee") and not allowed:
            place.fp32_precision = "ieee"


def _places() -> list[Any]:
    """What has a precision of its own, from PyTorch 2.9 on; what it has not is inherited."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    parts = [getattr(backend, part) for backend in (backends.cudnn, backends.mkldnn) for part in ("conv", "rnn")]
    return [backends.cuda.matmul, backends.mkldnn.matmul, *parts]


def tf32_in_convolutions() -> bool:
    """Whether a GPU's convolutions may use TF32 here and now."""
    cudnn: Any = torch.backends.cudnn
    try:
        return cudnn.allow_tf32
    except RuntimeError:  # the newer switches contradict it
        return cudnn.conv.fp32_precision == "tf32"


@contextmanager
def single_precision(tf32: bool = False) -> Iterator[None]:
    """Multiply in full single precision within the block, in this process, or by TF32."""
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # as above; it was at its default then
        products = "highest"
    convolutions, before = tf32_in_convolutions(), [(place, place.fp32_precision) for place in _places()]
    allow_tf32(tf32)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
        for place, precision in before:
            place.fp32_precision = "none"
            if place.fp32_precision != precision:  # not inherited
                place.fp32_precision = precision


@contextmanager
def in_mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Put a network in the mode of training or evaluation within the block; each module gets its own back."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.train(training)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
