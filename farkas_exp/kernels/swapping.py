"""Give a module another class, and keep its parameters, buffers, hooks and names."""

from collections.abc import Mapping

from torch import nn


class Swapped:
    """The base of every class that is swapped in; `plain` is the class that it replaces."""

    plain: type[nn.Module]


def swap_classes(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Give each module of `model` the class that `classes` has for its own, not for a subclass."""
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
