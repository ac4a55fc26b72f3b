"""Give a module another class, and keep its parameters, buffers, hooks and names."""

from collections.abc import Mapping

from torch import nn
from torch.nn.modules import module as every

from farkas_exp.layers.paths import has_hooks


class Swapped:
    """The base of every class that is swapped in; `plain` is the class that it replaces."""

    plain: type[nn.Module]


def is_watched(*modules: nn.Module) -> bool:
    """Whether one of these modules, or every module, has a hook: it would not run if a kernel did the module's work."""
    of_all = (
        every._global_forward_hooks or every._global_forward_pre_hooks
        or every._global_backward_hooks or every._global_backward_pre_hooks
    )  # fmt: skip
    return bool(of_all) or any(map(has_hooks, modules))


def swap_classes(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Give each module of `model` the class that `classes` has for its own, not for a subclass."""
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
