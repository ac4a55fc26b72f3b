"""The compiled part of the layers: made at its first use, and kept in the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

from farkas_exp.machine.files import replacing, scratch_folder

SOURCES = [Path(__file__).with_name(name) for name in ("native_conv.cpp", "native_buffer.h")]
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-fopenmp")

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
    loaded.farkas_bias_gradient.restype = None
    return loaded


@functools.lru_cache(maxsize=1)
def lanes() -> int:
    """How many images a vector holds."""
    found = library()
    assert found is not None
    return int(found.farkas_lanes())


def call(name: str, *arguments: object) -> None:
    """Call a function of the library.

    Raises:
        MemoryError: it found no memory.
    """
    if getattr(library(), name)(*arguments):
        raise MemoryError("the native convolution found no memory for its working space")


def _openmp() -> list[str]:
    """PyTorch's own OpenMP library, linked in the place of the compiler's, so that there is one set of threads."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [*map(str, own[:1]), "-Wl,--as-needed"] if own else []


def _compiled(compiler: str) -> Path:
    """The path of the shared library for this source, compiler and processor."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")][:1] if cpuinfo.exists() else []
    )
    parts = [
        *(source.read_text(encoding="utf-8") for source in SOURCES),
        compiler,
        *FLAGS,
        *_openmp(),
        platform.machine(),
        *flags,
    ]
    name = f"native_conv-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farkas_exp"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder, ".compiling-") as scratch:
            made = scratch / name
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCES[0]), *_openmp()]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            with replacing(path) as file:
                file.write(made.read_bytes())
    return path
