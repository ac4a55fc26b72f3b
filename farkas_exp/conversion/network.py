"""`convert(model)`: the network with Farkas layers where one-sided activations follow.

The network is traced by `torch.fx`; its modules keep their names. Before each one-sided activation stands one of:

- a convolution or linear layer: it becomes a Farkas layer of the same shape (Algorithm 1). Its first m - 1 rows and its
  bias are kept; a bias that was not there begins at zero.
- the same with a normalization between them, which would break the relation: it moves behind the activation, as in the
  paper, or is folded into the layer, or stays, with a completion behind it (`normalization`).
- anything else whose channels are known: a residual sum, the output of a grouped, depthwise or transposed convolution,
  features that a DenseNet has collected. A completion takes the place of its last channel (`layers.completion`, with
  the proof). What is before it, normalizations too, stays as it is.

Other activations (GELU, SiLU, ...) are left alone.
"""

import inspect
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from farkas_exp.conversion.activations import Found, find, is_in_place
from farkas_exp.conversion.nodes import channels_of, is_norm, is_single, module_of, modules_of, name_of, source, why_not
from farkas_exp.conversion.removal import remove_norms
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer, FarkasLinear
from farkas_exp.layers.paths import in_mode
from farkas_exp.layers.rule import FarkasRule
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.models.kernels import plain_copy

NORMALIZATION = ("after", "remove", "keep")
LAYER, COMPLETION, LEFT = "Farkas layer", "completion", "left alone"


@dataclass(frozen=True)
class Place:
    """An activation of the network, and what has become of what stands before it.

    Attributes:
        activation: its name in the traced network.
        before: what stood before it.
        form: `Farkas layer`, `completion` or `left alone`.
        why: what else there is to say.
    """

    activation: str
    before: str
    form: str
    why: str = ""


@dataclass
class Conversion:
    """A converted network, and what was done; `print` it.

    Attributes:
        network: the network, a `torch.fx.GraphModule` where it could be traced. It has the names and the single layers
            of the original, but not its methods, nor the hooks of its blocks.
        places: its activations in the order of the computation.
        notes: what concerns no single activation.
    """

    network: nn.Module
    places: list[Place] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        count = Counter(place.form for place in self.places)
        lines = [", ".join(f"{form}: {count[form]}" for form in (LAYER, COMPLETION, LEFT) if count[form])]
        width = max((len(place.activation) for place in self.places), default=0)
        for place in self.places:
            why = f" ({place.why})" if place.why else ""
            lines.append(f"  {place.activation:<{width}}  {place.form}: {place.before}{why}")
        return "\n".join([lines[0] or "no activation was found", *lines[1:], *(f"  {note}" for note in self.notes)])


def convert(
    model: nn.Module, rule: FarkasRule | None = None, *, normalization: str = "after", **options: Any
) -> Conversion:
    """Convert a copy of a network; the network itself stays as it is.

        conversion = convert(torchvision.models.resnet18(), aggregation="mean", margin=0.1)
        print(conversion)
        certify(conversion.network, images).active

    Args:
        model: any network that `torch.fx` can trace with its optional arguments at their defaults; of another one, the
            plain sequences are converted.
        rule: of the Farkas layers, without a cutoff: each activation has its own.
        normalization: what becomes of a normalization between a layer and its activation: `after` the activation (its
            running statistics begin anew); `remove` all, batch norm folded into the layer as it evaluates; or `keep`.
        options: fields of the rule, such as `aggregation="mean"`.

    Raises:
        UserError: another `normalization`, a rule with a cutoff, or lazy layers without a shape.
    """
    if normalization not in NORMALIZATION:
        raise unknown("normalization", normalization, NORMALIZATION)
    given = FarkasRule.of(rule, options)
    if given.cutoff:
        raise UserError(f"cutoff: {given.cutoff!r} has no place in a conversion: each activation has its own cutoff")
    if any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        raise UserError("model: it has lazy layers without a shape; call it on images before its conversion")
    model = plain_copy(model)
    try:
        graph, notes = _traced(model)
    except Exception as error:  # noqa: BLE001 - a forward may do anything with what it is given
        reason = " ".join(str(error).split())[:200]
        return _in_sequences(model, given, normalization, reason or type(error).__name__)
    done = _converted(fx.GraphModule(model, graph, type(model).__name__), given, normalization)
    return replace(done, notes=notes + done.notes)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("farkas_exp.layers") or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> tuple[fx.Graph, list[str]]:
    """The graph of a network, which follows the network's mode, and what the tracing did not look into."""
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    with in_mode(model, training=True):
        graph = _Tracer().trace(model, defaults)
    with in_mode(model, training=False):
        other = _Tracer().trace(model, defaults)
    _follow_mode(model, graph, other)
    modules, notes = modules_of(model), []
    for name in {str(node.target): None for node in graph.nodes if node.op == "call_module"}:
        if list(modules[name].children()) and modules[name].__module__.startswith("torch.nn.modules."):
            notes.append(f"{name}: left alone, the inside of a {type(modules[name]).__name__}")
    return graph, notes


class Mode(nn.Module):
    """Whether the network is in training, for the functions of a traced network that ask for it."""

    def forward(self) -> bool:
        """The mode."""
        return self.training


def _follow_mode(model: nn.Module, graph: fx.Graph, other: fx.Graph) -> None:
    """Let what is True in the graph of training and False in that of evaluation follow the mode.

    Raises:
        ValueError: the graphs differ in more.
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
            raise ValueError("it computes other things in training than in evaluation")
        return here

    for node, its in itertools.zip_longest(list(graph.nodes), list(other.nodes)):
        shapes = [each and (each.target, len(each.args), *each.kwargs) for each in (node, its)]
        if shapes[0] != shapes[1]:
            raise ValueError("it computes other things in training than in evaluation")
        node.args = tuple(chosen(node, *pair) for pair in zip(node.args, its.args, strict=True))
        node.kwargs = {key: chosen(node, value, its.kwargs[key]) for key, value in node.kwargs.items()}
    if flag is not None:
        model.add_module("training_mode", Mode())


def _converted(network: fx.GraphModule, rule: FarkasRule, normalization: str, prefix: str = "") -> Conversion:
    """Convert a traced network in place."""
    done, modules = Conversion(network), modules_of(network)
    for node in list(network.graph.nodes):
        before = source(node)
        if before is not None and type(module_of(node, modules)) is nn.Identity:
            node.replace_all_uses_with(before)
            network.graph.erase_node(node)
    if normalization == "remove":
        lost = remove_norms(network)
        done.notes = [f"{prefix}{name}: removed, with no layer to fold it into" for name in lost]
    placing = _Placing(network, rule, normalization)
    for node in list(network.graph.nodes):
        found = find(node, placing.modules)
        if found is not None:
            place = placing.at(node, found)
            done.places.append(replace(place, activation=prefix + place.activation, before=prefix + place.before))
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    return done


class _Placing:
    """Puts Farkas layers and completions before the activations of a network."""

    def __init__(self, network: fx.GraphModule, rule: FarkasRule, normalization: str) -> None:
        self.network, self.rule, self.normalization = network, rule, normalization
        self.modules = modules_of(network)

    def at(self, activation: fx.Node, found: Found) -> Place:
        """Convert what stands before an activation."""
        before = source(activation)
        place = Place(name_of(activation), name_of(before), LEFT, found.note)
        if found.cutoff is None or before is None:
            return place
        rule = replace(self.rule, cutoff=found.cutoff)
        if isinstance(module_of(before, self.modules), (FarkasLayer, FarkasCompletion)):
            return replace(place, why="is one already")
        if is_in_place(activation, self.modules):  # what is used later has been overwritten
            later = set(itertools.dropwhile(lambda node: node is not activation, self.network.graph.nodes)) - {
                activation
            }
            before.replace_all_uses_with(activation, delete_user_cb=later.__contains__)
        norm = before if is_norm(before, self.modules) else None
        layer = before if norm is None else source(norm)
        assert layer is not None
        why = why_not(layer, self.modules)
        if norm is not None and not why and (self.normalization == "keep" or not is_single(norm)):
            why = "normalized before the activation"
        if why:
            return self._complete(
                activation, before, rule, replace(place, form=COMPLETION, why=_joined(why, found.note))
            )
        module = self.modules[str(layer.target)]
        self._set(str(layer.target), as_farkas(module, rule))
        added = "" if isinstance(module.bias, nn.Parameter) else "with a bias"
        moved = "" if norm is None else f"{norm.target} moved behind the activation"
        if norm is not None:
            self._move_behind(norm, activation)
        return replace(place, before=name_of(layer), form=LAYER, why=_joined(added, moved, found.note))

    def _set(self, target: str, module: nn.Module) -> None:
        parent, _, last = target.rpartition(".")
        setattr(self.modules[parent], last, module)
        self.modules[target] = module

    def _move_behind(self, norm: fx.Node, activation: fx.Node) -> None:
        module = self.modules[str(norm.target)]
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()  # they are those of other values
        before = source(norm)
        assert before is not None
        norm.replace_all_uses_with(before)
        self.network.graph.erase_node(norm)
        with self.network.graph.inserting_after(activation):
            moved = self.network.graph.call_module(str(norm.target), (activation,))
        activation.replace_all_uses_with(moved, delete_user_cb=lambda user: user is not moved)

    def _complete(self, activation: fx.Node, before: fx.Node, rule: FarkasRule, place: Place) -> Place:
        channels = channels_of(before, self.modules)
        if channels is None:
            return replace(place, form=LEFT, why="the number of its channels is not known")
        if channels.number < 2:
            return replace(place, form=LEFT, why="a single channel cannot be the aggregate of others")
        made = FarkasCompletion(channels.number, replace(rule, learn_lambda=False), channels.dim)
        some = next(self.network.parameters(), None)
        name = f"completion_{activation.name}"
        self._set(name, made if some is None else made.to(some))
        with self.network.graph.inserting_before(activation):
            completed = self.network.graph.call_module(name, (before,))
        activation.replace_input_with(before, completed)
        return place


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


@torch.no_grad()
def as_farkas(layer: nn.Module, rule: FarkasRule) -> FarkasLayer:
    """The Farkas layer of the same shape, with the free rows and the bias of `layer` (zero where it has none)."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    made: FarkasLayer
    if isinstance(layer, nn.Linear):
        made = FarkasLinear(layer.in_features, layer.out_features, rule, **place)
    else:
        made = FarkasConv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,  # type: ignore[arg-type]
            layer.padding, layer.dilation, rule=rule, **place,  # type: ignore[arg-type]
        )  # fmt: skip
    made.weight.copy_(layer.weight[:-1]).requires_grad_(layer.weight.requires_grad)
    if layer.bias is None:
        made.bias.zero_().requires_grad_(layer.weight.requires_grad)
    else:
        made.bias.copy_(layer.bias).requires_grad_(layer.bias.requires_grad)
    return made.train(layer.training)


def _in_sequences(model: nn.Module, rule: FarkasRule, normalization: str, why: str) -> Conversion:
    """Convert the plain sequences of a network whose forward cannot be traced, and nothing else."""
    done = Conversion(model, notes=[f"{type(model).__name__}: only its sequences, as it cannot be traced: {why}"])
    for name, part in list(model.named_modules()):
        if type(part).forward is not nn.Sequential.forward or not all(_is_plain(child) for child in part.children()):
            continue
        inner = _converted(fx.GraphModule(part, _Tracer().trace(part)), rule, normalization, f"{name}." if name else "")
        done.places += inner.places
        done.notes += inner.notes
        graph = inner.network.graph
        assert isinstance(graph, fx.Graph)
        part._modules.clear()
        for node in graph.nodes:
            if node.op == "call_module":  # a module may be called twice
                called = name_of(node) if name_of(node) not in part._modules else node.name
                part.add_module(called, inner.network.get_submodule(name_of(node)))
    return done


def _is_plain(module: nn.Module) -> bool:
    """Whether this is a single module of PyTorch's or ours."""
    return module.__module__.startswith(("torch.nn.", "farkas_exp.layers")) and not list(module.children())
