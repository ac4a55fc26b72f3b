"""The global random states of a process, which belong to the program that calls this package."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore those of Python, NumPy and PyTorch, on the CPU and all GPUs, after the block."""
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that others draw from
    cpu, seed = torch.get_rng_state(), torch.initial_seed()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)
        elif torch.cuda.is_initialized():  # within the block; `torch.manual_seed` seeds what has not begun, too
            torch.cuda.manual_seed_all(seed)
