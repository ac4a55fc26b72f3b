"""The kernels of a network, if `farkas_exp.kernels` is there: everything works without that room."""

import copy
from importlib import import_module
from types import ModuleType

from torch import device as Device
from torch import nn


def accelerated(model: nn.Module, device: Device) -> nn.Module:
    """The network with the kernels that are faster on `device`."""
    kernels = _kernels()
    return kernels.accelerate(model, device) if kernels else model


def kernels_in_use(model: nn.Module) -> list[str]:
    """The names of the kernels in the network."""
    kernels = _kernels()
    return kernels.in_use(model) if kernels else []


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of the network without kernels."""
    kernels, model = _kernels(), copy.deepcopy(model)
    return kernels.restore(model) if kernels else model


def _kernels() -> ModuleType | None:
    try:
        return import_module("farkas_exp.kernels")
    except ModuleNotFoundError as error:
        if error.name != "farkas_exp.kernels":
            raise
        return None
