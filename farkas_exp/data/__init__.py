"""The data sets: `arrays` in memory, `files` on disk. `build_data` prepares one for the trainer."""

from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load

if TYPE_CHECKING:
    from farkas_exp.data.base import DataInfo, ImageData
    from farkas_exp.data.build import build_data

__all__ = ["DataInfo", "ImageData", "build_data"]

_PLACES = {"base": ("DataInfo", "ImageData"), "build": ("build_data",)}


def __getattr__(name: str) -> Any:
    return load(__name__, _PLACES, name)
