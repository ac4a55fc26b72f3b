"""Giving a module another class: parameters, buffers, hooks and names stay as they are."""

from collections.abc import Mapping

from torch import nn


class Swapped:
    """What every class that is swapped in derives from; the class behind it is the plain one."""

    plain: type[nn.Module]


def swap_classes(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Give each module of `model` the class that stands for its own in `classes`; a subclass of those is left alone."""
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]


def restore_class(module: nn.Module) -> None:
    """Give a module its plain class again."""
    if isinstance(module, Swapped):
        module.__class__ = module.plain  # type: ignore[assignment]


def swapped_by(module: nn.Module) -> str | None:
    """The name of the Python module whose class has been swapped in."""
    return type(module).__module__ if isinstance(module, Swapped) else None
