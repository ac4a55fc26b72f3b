"""Watch the pre-activations of a network."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import plain_path


@contextmanager
def each_pre_activation(model: nn.Module, see: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `see` with (name of the activation, its pre-activation) within the block, in the order of computation.

    A tensor that `see` returns goes into the activation in place of its input.
    """
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, Activation)}
    with ExitStack() as hooks, plain_path():
        for activation in names:
            hook = activation.register_forward_pre_hook(lambda activation, inputs: see(names[activation], inputs[0]))
            hooks.enter_context(hook)
        yield


@contextmanager
def watch_pre_activations(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name of the activation, its pre-activation) within the block, in the order of computation.

    The tensors are part of the graph; activations, which may work in place, get a copy. An activation that is called
    twice is listed twice.
    """
    seen: list[tuple[str, Tensor]] = []

    def collect(name: str, pre_activation: Tensor) -> Tensor:
        seen.append((name, pre_activation))
        return pre_activation.clone()

    with each_pre_activation(model, collect):
        yield seen
