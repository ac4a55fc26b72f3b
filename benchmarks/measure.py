"""Interleaved timing, and what the machine is.

Candidates take turns, so that whatever else the machine does hits all of them alike; medians are compared.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from farkas_exp.kernels import native_library
from farkas_exp.machine.cores import processor


def device() -> torch.device:
    """Where to measure: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(candidates: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, all candidates taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm_up + rounds):
        for name, run in candidates.items():
            synchronize()
            started = time.perf_counter()
            run()
            synchronize()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each candidate."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], name: str, base: str) -> float:
    """The median over rounds of `name` / `base`: a slow moment of the machine hits both sides of one round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def machine() -> dict[str, Any]:
    """The machine's name, processor, threads and versions."""
    return {
        "host": platform.node(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "native_conv": native_library.available(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


def matmul_rate(dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of a square matrix product: what the machine can do at best."""
    a, b = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    seconds = interleaved({"matmul": lambda: a @ b}, rounds=7, warm_up=2)["matmul"]
    return 2 * size**3 / min(seconds)


def kept_bytes(step: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of `step`, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()
    total = sum(storages.values())
    del loss
    return total


def peak_bytes(step: Callable[[], Any]) -> int | None:
    """The GPU memory that `step` takes at its peak, with everything that lives beside it; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    synchronize()
    return torch.cuda.max_memory_allocated()
