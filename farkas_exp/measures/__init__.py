"""Measurements of a network beside its loss and error. `catalogue` names them, without PyTorch."""

from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load

if TYPE_CHECKING:
    from farkas_exp.measures.activity import LayerActivity, dead_samples, measure_activity
    from farkas_exp.measures.figures import Subject, check_measures, measure
    from farkas_exp.registry import MEASURES

__all__ = ["MEASURES", "LayerActivity", "Subject", "check_measures", "dead_samples", "measure", "measure_activity"]

_PLACES = {
    "activity": ("LayerActivity", "dead_samples", "measure_activity"),
    "figures": ("Subject", "check_measures", "measure"),
    "catalogue": ("MEASURES",),
}


def __getattr__(name: str) -> Any:
    return load(__name__, _PLACES, name)
