"""Watch the pre-activations of a network."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, Activation)}

    def collect(activation: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append((names[activation], inputs[0]))
        return inputs[0].clone()

    with ExitStack() as hooks, plain_path():
        for activation in names:
            hooks.enter_context(activation.register_forward_pre_hook(collect))
        yield seen
