"""The networks. `catalogue` describes them without PyTorch; `create_model` builds one."""

from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load

if TYPE_CHECKING:
    from farkas_exp.models.create import SCALAR_MODULES, WEIGHT_MODULES, create_model
    from farkas_exp.models.head import RandomProjection
    from farkas_exp.registry import HEADS, NETWORKS

__all__ = ["HEADS", "NETWORKS", "SCALAR_MODULES", "WEIGHT_MODULES", "RandomProjection", "create_model"]

_PLACES = {
    "catalogue": ("HEADS", "NETWORKS"),
    "create": ("SCALAR_MODULES", "WEIGHT_MODULES", "create_model"),
    "head": ("RandomProjection",),
}


def __getattr__(name: str) -> Any:
    return load(__name__, _PLACES, name)
