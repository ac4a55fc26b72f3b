"""The compiled part of the layers: made at its first use, kept in the user's cache, and shared out over threads."""

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

import torch

SOURCES = [Path(__file__).with_name(name) for name in ("native_conv.cpp", "native_buffer.h")]
WORTH_A_THREAD = 2e6
"""Multiply-adds from which on a layer is shared out."""
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")

_FLOAT, _INT, _SIZE, _POINTER = ctypes.c_float, ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_ARGUMENTS = {
    "farkas_lanes": [],
    "farkas_convolve": [*[_POINTER] * 4, _FLOAT, _FLOAT, _INT, _POINTER, _POINTER, _SIZE, _SIZE],
    "farkas_backward": [*[_POINTER] * 4, _FLOAT, *[_POINTER] * 6, _SIZE, _SIZE],
    "farkas_bias_gradient": [_POINTER, _SIZE, _POINTER, _FLOAT, _FLOAT, _POINTER, _SIZE],
}


def available() -> bool:
    """Whether the compiled kernels can be used; compiles them at the first call. FARKAS_EXP_NATIVE=0 says no."""
    return os.environ.get("FARKAS_EXP_NATIVE") != "0" and library() is not None


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, from the user's cache or compiled into it; None where that is not possible."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


@functools.lru_cache(maxsize=1)
def lanes() -> int:
    """How many images a vector holds."""
    found = library()
    assert found is not None
    return int(found.farkas_lanes())


def threads_for(items: int, multiply_adds: float) -> int:
    """PyTorch's number of threads where the work is worth it, at most one for each item."""
    return 1 if multiply_adds < WORTH_A_THREAD else min(torch.get_num_threads(), items)


def share_out(part: Callable[[int, int, int], int], items: int, threads: int) -> None:
    """Call part(number, first, last) for an even share of the items on each thread.

    Raises:
        MemoryError: a part found no memory.
    """
    borders = [items * i // threads for i in range(threads + 1)]
    # ctypes gives the interpreter free while the kernel runs.
    others = [_pool(os.getpid()).submit(part, i, *borders[i : i + 2]) for i in range(1, threads)]
    if part(0, *borders[:2]) | sum(other.result() for other in others):
        raise MemoryError("the native convolution found no memory for its working space")


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked one needs its own."""
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="native_conv")


def _compiled(compiler: str) -> Path:
    """The path of the shared library for this source, compiler and processor."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")][:1] if cpuinfo.exists() else []
    )
    parts = [*(source.read_text(encoding="utf-8") for source in SOURCES), compiler, *FLAGS, platform.machine(), *flags]
    name = f"native_conv-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farkas_exp"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / name
            subprocess.run(
                [compiler, *FLAGS, "-o", str(made), str(SOURCES[0])], check=True, capture_output=True, timeout=120
            )
            os.replace(made, path)
    return path
