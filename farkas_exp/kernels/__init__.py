"""Faster forms of what `layers` and `models` compute, swapped in after a network is built.

`accelerate(model, device)` replaces the class of modules by a subclass with the same parameters, names and results,
where that was measured to be faster. Nothing else needs this package. A kernel runs in eager mode on suitable tensors;
otherwise, under `layers.paths.plain_path`, and where a hook waits for a call that a kernel would not make, its module
computes the plain formula. A test compares each kernel to that.

- `fused`: the augmented weight and the end of a residual block, each as one autograd Function, on any device.
- `whole_network`: all augmented weights of a network together, on a GPU.
- `one_pass`: convolutions on a GPU with all that follows them, by Triton.
- `batch_last`: convolutions on a CPU with images in the vector lanes, compiled at their first use.

A further kernel is a module with a `swap(model, device)`, entered in `KERNELS`.
"""

from torch import device as Device
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from farkas_exp.kernels import batch_last, fused, one_pass, whole_network
from farkas_exp.kernels.swapping import Swapped

KERNELS = {
    "fused": fused.swap,
    "whole_network": whole_network.swap,
    "one_pass": one_pass.swap,
    "native_conv": batch_last.swap,
}
"""In the order in which they are swapped in: a later one builds on the modules of an earlier one."""


def accelerate(model: nn.Module, device: Device) -> nn.Module:
    """Swap in the kernels that are faster for `model` on `device`, in place, and return `model`.

    Its parameters, state keys and results stay the same.
    """
    for swap in KERNELS.values():
        swap(model, device)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Remove all kernels from `model`, in place, and return it."""
    whole_network.remove(model)
    for module in model.modules():
        if isinstance(module, Swapped) and not is_parametrized(module):  # its own class computes the weight
            module.__class__ = module.plain  # type: ignore[assignment]
    return model


def in_use(model: nn.Module) -> list[str]:
    """The names of the kernels in `model`."""
    swapped = {type(module).__module__ for module in model.modules() if isinstance(module, Swapped)}
    if whole_network.of_model(model):
        swapped.add(whole_network.__name__)
    return [name for name, swap in KERNELS.items() if swap.__module__ in swapped]
