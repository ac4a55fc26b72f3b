"""A network as a graph that follows its mode; modules that cannot be traced are called as a whole."""

import copy
import inspect
import itertools
import re
import traceback
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from farkas_exp.layers.paths import in_mode
from farkas_exp.machine.errors import message_of


class Untraceable(Exception):  # noqa: N818 - a fact about a network
    """Why a network has no graph."""


class Tracer(fx.Tracer):
    """Looks into all but single layers, and into those modules that can be traced.

    Attributes:
        opaque: why a module could not be traced, by its name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opaque: dict[str, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of the module is one node: also of a convolution or linear layer of another package."""
        ours = m.__module__.startswith("farkas_exp.layers") or isinstance(m, (_ConvNd, nn.Linear))
        return ours or super().is_leaf_module(m, module_qualified_name)

    def create_arg(self, a: Any) -> Any:
        """An argument of a node.

        Raises:
            Untraceable: a tensor that the forward has made, perhaps of buffers: a graph would keep it as it is now.
        """
        if isinstance(a, Tensor) and all(
            a is not known for known in (*self.root.parameters(), *self.root.buffers(), *self.tensor_attrs)
        ):
            raise Untraceable("its forward makes a tensor, which a graph would keep as it is now")
        return super().create_arg(a)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a module, or leave it whole."""
        count, stack = len(self.graph.nodes), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # noqa: BLE001 - a forward may do anything with what it is given
            name = self.path_of_module(m)
            self.opaque[name] = reason(error)
            for node in reversed(list(self.graph.nodes)[count:]):
                self.graph.erase_node(node)
            self.module_stack = stack
            return self.create_proxy("call_module", name, args, kwargs)


class Chain(Tracer):
    """Looks into no module of a sequence."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Yes."""
        return True


class Traced(fx.GraphModule):
    """A traced network; a part of one that is not has the attributes of the module that it was."""

    def __deepcopy__(self, memo: Any) -> fx.GraphModule:
        made = super().__deepcopy__(memo)
        others = {key: value for key, value in vars(self).items() if key not in vars(made)}
        made.__dict__.update(copy.deepcopy(others, memo))
        return made


def keep_attributes(made: nn.Module, module: nn.Module) -> None:
    """Give a traced module the attributes of the original that its caller may read."""
    for key, value in vars(module).items():
        made.__dict__.setdefault(key, value)


class Mode(nn.Module):
    """Whether the network is in training, for the functions of a traced network that ask for it."""

    def forward(self) -> bool:
        """The mode."""
        return self.training


def traced(model: nn.Module) -> tuple[fx.Graph, dict[str, str]]:
    """The graph of a network, its optional arguments at their defaults, and why some modules are whole in it.

    Raises:
        Untraceable: it cannot be traced, or computes other things in training than in evaluation.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    tracers, graphs = (Tracer(), Tracer()), []
    try:
        for tracer, training in zip(tracers, (True, False), strict=True):
            with in_mode(model, training):
                graphs.append(tracer.trace(model, defaults))
    except Exception as error:  # a forward may do anything with what it is given
        raise Untraceable(reason(error)) from error
    _follow_mode(model, *graphs)
    return graphs[0], tracers[0].opaque


def takes_one_argument(module: nn.Module) -> bool:
    """Whether a forward has one argument, and so no other that its caller may give."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    return len(parameters) == 1 and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def uninspected(model: nn.Module, graph: fx.Graph) -> list[str]:
    """A line for each module of PyTorch's that is called as a whole, and may have activations inside."""
    modules = dict(model.named_modules())
    called = {str(node.target): None for node in graph.nodes if node.op == "call_module"}
    return [
        f"{name}: left alone, the inside of a {type(modules[name]).__name__}"
        for name in called
        if list(modules[name].children()) and modules[name].__module__.startswith("torch.nn.modules.")
    ]


def reason(error: Exception) -> str:
    """What an error says, in one line that is not too long; PyTorch's of a tensor of a traced size is of no help."""
    lines = [frame.line or "" for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, TypeError) and _FACTORY.search(lines[-1]):
        error = Untraceable(f"its forward makes a tensor of what is known only when it is called: {lines[-1]}")
    return message_of(error, 200)


_FACTORY = re.compile(r"\btorch\.(tensor|Tensor|zeros|ones|empty|rand\w*)\(")
"""What takes no traced size."""


def _follow_mode(model: nn.Module, graph: fx.Graph, other: fx.Graph) -> None:
    """Let what is True in the graph of training and False in that of evaluation follow the mode.

    Raises:
        Untraceable: the graphs differ in more.
    """
    flag: fx.Node | None = None

    def chosen(node: fx.Node, here: Any, there: Any) -> Any:
        nonlocal flag
        if here is True and there is False:
            if flag is None:
                with graph.inserting_before(node):
                    flag = graph.call_module("training_mode")
            return flag
        if repr(here) != repr(there):
            raise Untraceable("it computes other things in training than in evaluation")
        return here

    for node, its in itertools.zip_longest(list(graph.nodes), list(other.nodes)):
        shapes = [each and (each.target, len(each.args), *each.kwargs) for each in (node, its)]
        if shapes[0] != shapes[1]:
            raise Untraceable("it computes other things in training than in evaluation")
        node.args = tuple(chosen(node, *pair) for pair in zip(node.args, its.args, strict=True))
        node.kwargs = {key: chosen(node, value, its.kwargs[key]) for key, value in node.kwargs.items()}
    if flag is not None:
        model.add_module("training_mode", Mode())
