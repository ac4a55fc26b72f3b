"""The precision in which a network computes: `fp32`, `tf32` (on a GPU alone), or `bf16` by autocast.

The configuration decides, even in a program that has set PyTorch's precision for other work (`as_configured`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from farkas_exp.layers.paths import allow_tf32, single_precision
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.random_states import random_states_kept


def set_precision(precision: str, device: torch.device) -> None:
    """Compute in it from now on in this process, as far as single precision goes; `autocast` does the rest."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision: tf32 needs a GPU; use precision=fp32")
    allow_tf32(precision == "tf32")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass in this precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Forward passes in this precision within the block, whatever is set in this process."""
    with single_precision(precision == "tf32"), autocast(precision, device):
        yield


@contextmanager
def as_configured() -> Iterator[None]:
    """PyTorch as at the start of a process within the block, whatever its caller has set.

    That is: single precision, no autocast, gradients, and tensors that are made on the CPU unless they say otherwise.
    The caller's random numbers go on afterwards as if nothing had been drawn in the block.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as own:
        own.enter_context(random_states_kept())
        own.enter_context(single_precision())
        own.enter_context(torch.inference_mode(False))
        own.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):  # its cache would keep the weights of the first step
                own.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        if torch.empty(0).device.type != "cpu":  # PyTorch 2.6 has no word for the device of a `with`
            own.enter_context(torch.device("cpu"))
        own.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield
