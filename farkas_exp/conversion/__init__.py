"""Any network with Farkas layers in place of its own: `convert(model)`."""

from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load

if TYPE_CHECKING:
    from farkas_exp.conversion.network import Conversion, Place, convert

__all__ = ["Conversion", "Place", "convert"]

_PLACES = {"network": ("Conversion", "Place", "convert")}


def __getattr__(name: str) -> Any:
    return load(__name__, _PLACES, name)
