"""Watch the pre-activations of a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import plain_path


@contextmanager
def watch_pre_activations(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name of the activation, its pre-activation) within the block, in the order of computation.

    The tensors are part of the graph; activations, which may work in place, get a copy. An activation that is called
    twice is listed twice.
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
