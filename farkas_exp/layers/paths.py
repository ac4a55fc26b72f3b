"""The switches of a network: between fused code paths and the plain formulas that they equal, and its mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

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


def fused_allowed() -> bool:
    """Whether fused code paths may be used."""
    return _FUSED.get()


def allow_tf32(convolutions: bool, products: bool) -> tuple[bool, bool]:
    """Let a GPU multiply by TF32, which keeps 10 of 23 bits, in this process; return what was allowed before.

    PyTorch allows it in convolutions and not in matrix products.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32, matmul.allow_tf32 = convolutions, products
    return before


@contextmanager
def single_precision(tf32: bool = False) -> Iterator[None]:
    """Multiply in full single precision within the block, in this process, or by TF32."""
    before = allow_tf32(tf32, tf32)
    try:
        yield
    finally:
        allow_tf32(*before)


@contextmanager
def in_mode(network: "nn.Module", training: bool) -> Iterator[None]:
    """Put a network in the mode of training or evaluation within the block; each module gets its own back."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.train(training)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
