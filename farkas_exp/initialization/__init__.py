"""Initializations. `catalogue` says what they need, without PyTorch; `initialize` applies one to a network."""

from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load

if TYPE_CHECKING:
    from farkas_exp.initialization.apply import initialize
    from farkas_exp.registry import INITIALIZATIONS

__all__ = ["INITIALIZATIONS", "initialize"]

_PLACES = {"catalogue": ("INITIALIZATIONS",), "apply": ("initialize",)}


def __getattr__(name: str) -> Any:
    return load(__name__, _PLACES, name)
