"""How do deep networks train without normalization?

A config-driven experiment framework and reproduction of "Farkas layers: don't shift the data, fix the geometry".

    from farkas_exp import FarkasConv2d, certify, create_model, load, runs

    model = create_model("farkasnet34", num_classes=10)
    run = load("runs/.../seed_0")
    runs("runs", model="farkasnet34").results
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farkas_exp.conversion.network import Conversion, convert
    from farkas_exp.initialization.apply import initialize
    from farkas_exp.layers.certificate import certify, lambda_b
    from farkas_exp.layers.farkas import FarkasConv2d, FarkasLinear
    from farkas_exp.layers.rule import FarkasRule
    from farkas_exp.models.create import create_model
    from farkas_exp.trained.run import Run, load

__version__ = "0.2.0"
__all__ = [
    "Conversion", "FarkasConv2d", "FarkasLinear", "FarkasRule", "Run", "certify", "convert", "create_model",
    "initialize", "lambda_b", "load",
]  # fmt: skip

_PLACES = {
    "conversion.network": ("Conversion", "convert"),
    "initialization.apply": ("initialize",),
    "layers.certificate": ("certify", "lambda_b"),
    "layers.farkas": ("FarkasConv2d", "FarkasLinear"),
    "layers.rule": ("FarkasRule",),
    "models.create": ("create_model",),
    "trained.run": ("Run", "load"),
}
"""Where the names are, so that importing the package costs nothing: a module is imported when a name is first used."""


def __getattr__(name: str) -> Any:
    if name == "runs":  # a room that is also a function
        return import_module("farkas_exp.runs")
    for place, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"farkas_exp.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
