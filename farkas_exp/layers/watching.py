"""Watching the pre-activations of a network while it computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import plain_path


@contextmanager
def watch_pre_activations(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name of the activation, its pre-activation) within the `with` block, in the order of the computation.

    The tensors are the ones that the activations take, and part of the graph; the ReLU, which works in place, gets a
    copy. An activation that is called twice is there twice.
    """
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(_collector(name, seen))
        for name, module in model.named_modules()
        if isinstance(module, Activation)
    ]
    try:
        with plain_path():
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def _collector(name: str, seen: list[tuple[str, Tensor]]) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    def collect(activation: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append((name, inputs[0]))
        return inputs[0].clone()

    return collect
