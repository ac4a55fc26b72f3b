"""How do deep networks train without normalization?

A config-driven experiment framework and reproduction of "Farkas layers: don't shift the data, fix the geometry".

    from farkas_exp import FarkasConv2d, certify, create_model, load, runs

    model = create_model("farkasnet34", num_classes=10)
    run = load("runs/.../seed_0")
    runs("runs", model="farkasnet34").results
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load as _load

if TYPE_CHECKING:
    from farkas_exp.conversion import Conversion, convert
    from farkas_exp.initialization import initialize
    from farkas_exp.layers import FarkasConv2d, FarkasLinear, FarkasRule, certify, lambda_b
    from farkas_exp.models import create_model
    from farkas_exp.trained import Run, load

__version__ = "0.1.0"
__all__ = [
    "Conversion", "FarkasConv2d", "FarkasLinear", "FarkasRule", "Run", "certify", "convert", "create_model",
    "initialize", "lambda_b", "load",
]  # fmt: skip

_PLACES = {
    "conversion": ("Conversion", "convert"),
    "initialization": ("initialize",),
    "layers": ("FarkasConv2d", "FarkasLinear", "FarkasRule", "certify", "lambda_b"),
    "models": ("create_model",),
    "trained": ("Run", "load"),
}


def __getattr__(name: str) -> Any:
    if name == "runs":  # a room that is also a function
        return import_module("farkas_exp.runs")
    return _load(__name__, _PLACES, name)
