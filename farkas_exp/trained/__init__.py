"""A run that has been trained, in Python and on the command line: load, evaluate, predict, export."""

from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load as _load

if TYPE_CHECKING:
    from farkas_exp.trained.preprocessing import Preprocessing
    from farkas_exp.trained.run import Run, load

__all__ = ["Preprocessing", "Run", "load"]

_PLACES = {"preprocessing": ("Preprocessing",), "run": ("Run", "load")}


def __getattr__(name: str) -> Any:
    return _load(__name__, _PLACES, name)
