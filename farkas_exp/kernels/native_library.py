"""The compiled kernels: made at their first use, and kept in the user's cache."""

import ctypes
import functools
import os
import platform
from pathlib import Path

import torch

from farkas_exp.machine import compiling
from farkas_exp.machine.output import warn

SOURCES = [Path(__file__).with_name(name) for name in ("native_conv.cpp", "native_buffer.h")]
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-fopenmp")
_CPUINFO = Path("/proc/cpuinfo")

_FLOAT, _INT, _SIZE, _POINTER = ctypes.c_float, ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_ARGUMENTS = {
    "farkas_lanes": [],
    "farkas_convolve": [*[_POINTER] * 4, _FLOAT, _FLOAT, _INT, _POINTER, _POINTER, _SIZE, _SIZE],
    "farkas_backward": [*[_POINTER] * 4, _FLOAT, *[_POINTER] * 6, _SIZE, _SIZE],
    "farkas_bias_gradient": [_POINTER, _SIZE, _POINTER, _FLOAT, _FLOAT, _POINTER, _SIZE],
}


def available() -> bool:
    """Whether the compiled kernels can be used; compile them at the first call. FARKAS_EXP_NATIVE=0 forbids them."""
    return os.environ.get("FARKAS_EXP_NATIVE") != "0" and library() is not None


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, from the user's cache or compiled into it, or None.

    Warn of any reason but a missing compiler: without them the same training is slower.
    """
    try:
        loaded = compiling.load("native_conv", SOURCES, FLAGS, _openmp(), _processor())
    except compiling.NoCompilerError:
        return None
    except compiling.CompileError as error:
        warn(f"warning: native convolution: {error}; going on with PyTorch's")
        return None
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    loaded.farkas_bias_gradient.restype = None
    return loaded


@functools.lru_cache(maxsize=1)
def lanes() -> int:
    """The images in a vector."""
    found = library()
    assert found is not None
    return int(found.farkas_lanes())


def call(name: str, *arguments: object) -> None:
    """Call a function of the library.

    Raises:
        MemoryError: it ran out of memory.
    """
    if getattr(library(), name)(*arguments):
        raise MemoryError("the native convolution ran out of memory")


def _openmp() -> list[str]:
    """PyTorch's OpenMP library, linked in place of the compiler's, so that there is one set of threads."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [*map(str, own[:1]), "-Wl,--as-needed"] if own else []


def _processor() -> str:
    """The processor that the code is compiled for: its kind, and what it can do (`Features` on ARM)."""
    lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if _CPUINFO.exists() else []
    return " ".join([platform.machine(), *[line for line in lines if line.startswith(("flags", "Features"))][:1]])
