"""`convert(model)`: the network with Farkas layers where one-sided activations follow.

The network is traced by `torch.fx`; its modules keep their names. Before each one-sided activation stands one of:

- a convolution or linear layer: it becomes a Farkas layer of the same shape (Algorithm 1). Its first m - 1 rows and its
  bias are kept; a bias that was not there begins at zero.
- the same with a normalization between them, which would break the relation: it moves behind the activation, as in the
  paper, or is folded into the layer, or stays, with a completion behind it (`normalization`).
- anything else whose channels are known: a residual sum, the output of a grouped, depthwise or transposed convolution,
  features that a DenseNet has collected. A completion takes the place of its last channel (`layers.completion`, with
  the proof). What is before it, normalizations too, stays as it is.

Other activations (GELU, SiLU, ...) are left alone. Of a part that cannot be traced, because it branches on values or is
another network in training, the parts are converted; what its own forward does between them is not looked into.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from farkas_exp.conversion.activations import Found, find, is_in_place
from farkas_exp.conversion.nodes import (
    NORMS,
    Modules,
    altered,
    channels_of,
    is_single,
    module_of,
    name_of,
    norm_of,
    source,
    tied_parameters,
    why_not,
)
from farkas_exp.conversion.removal import remove_norms
from farkas_exp.conversion.tracing import (
    Chain,
    Traced,
    Tracer,
    Untraceable,
    keep_attributes,
    reason,
    takes_one_argument,
    traced,
    uninspected,
)
from farkas_exp.layers.certificate import check_network
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer, FarkasLinear
from farkas_exp.layers.rule import FarkasRule
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.machine.random_states import random_states_kept
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
            of the original, but not its methods. Where it could not, it is of the original's class, with graph modules
            in it.
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


@random_states_kept()
def convert(
    model: nn.Module, rule: FarkasRule | None = None, *, normalization: str = "after", **options: Any
) -> Conversion:
    """Convert a copy of a network; the network itself stays as it is.

        conversion = convert(torchvision.models.resnet18(), aggregation="mean", margin=0.1)
        print(conversion)
        certify(conversion.network, images).active

    Args:
        model: any network that `torch.fx` can trace with its optional arguments at their defaults; of a part that it
            cannot trace, the parts of this. What compiles a network or distributes it over devices is taken off. What
            a forward decides by chance in Python, such as which layers to skip, is decided once.
        rule: of the Farkas layers, without a cutoff: each activation has its own.
        normalization: what becomes of a normalization between a layer and its activation: `after` the activation (its
            running statistics begin anew); `remove` all of PyTorch's and of this package, batch norm folded into the
            layer as it evaluates; or `keep`.
        options: fields of the rule, such as `aggregation="mean"`.

    Raises:
        UserError: what is given is no network or no rule, or cannot be copied; another `normalization`, a rule with a
            cutoff, lazy layers without a shape, or hooks on the network, a block of it, or what is removed.
    """
    if normalization not in NORMALIZATION:
        raise unknown("normalization", normalization, NORMALIZATION)
    given = FarkasRule.of(rule, options)
    if given.cutoff:
        raise UserError(f"cutoff: {given.cutoff!r} has no place in a conversion: each activation has its own cutoff")
    model, notes = _copied(model)
    for name, module in model.named_modules():
        if (why := altered(module)) and not _stays(module, normalization):
            raise UserError(f"model: {name or type(model).__name__}: {why}, which would be lost; take that off first")
    wanted = _Wanted(given, normalization, tied_parameters(model), tied_parameters(model, by_name=True))
    try:
        done = _as_a_whole(model, wanted, "")
    except Untraceable as error:
        done = _by_parts(model, wanted, "", str(error))
    if normalization == "remove":
        kept = [name for name, module in done.network.named_modules() if isinstance(module, NORMS)]
        done.notes += [f"{name}: not removed, in a part that cannot be traced" for name in kept]
    return replace(done, notes=notes + done.notes)


class _Wanted(NamedTuple):
    """What is asked for, and which parameters of the whole network are shared by layers, or stand in several places."""

    rule: FarkasRule
    normalization: str
    tied: set[nn.Parameter]
    placed: set[nn.Parameter]

    def of_parts(self) -> "_Wanted":
        """The same where no graph sees all that calls a layer."""
        return self._replace(tied=self.placed)


def _stays(module: nn.Module, normalization: str) -> bool:
    """Whether a module is called as a whole by the converted network, too, or says itself why it is not converted."""
    removed = isinstance(module, nn.Identity) or (normalization == "remove" and isinstance(module, NORMS))
    return Tracer().is_leaf_module(module, "") and not removed


def _copied(model: Any) -> tuple[nn.Module, list[str]]:
    """A copy of the network without what compiles it or distributes it, and a line for each of these."""
    check_network(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("model: a network of TorchScript cannot be converted; give the one that it was made of")
    notes: list[str] = []
    model = _bare(model, notes)
    if any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        raise UserError("model: it has lazy layers without a shape; call it on images before its conversion")
    try:
        made = plain_copy(model)
    except Exception as error:  # a module may hold anything
        raise UserError(f"model: it cannot be copied ({reason(error)})") from error
    for parent in made.modules():
        for name, child in parent._modules.items():
            parent._modules[name] = child if child is None else _bare(child, notes)
    return made, notes


def _bare(model: nn.Module, notes: list[str]) -> nn.Module:
    """The network without the wrapper of `torch.compile` or data parallelism."""
    while True:
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model._modules.get("module" if parallel else "_orig_mod")
        if inner is None:
            return model
        notes.append(f"{type(model).__name__}: taken off; it can be put around the converted network again")
        model = inner


def _as_a_whole(model: nn.Module, wanted: _Wanted, prefix: str) -> Conversion:
    """Convert a network in place; a part that cannot be traced is converted part by part.

    Raises:
        Untraceable: it cannot be traced itself.
    """
    graph, opaque = traced(model)
    wanted = wanted.of_parts() if opaque else wanted
    notes = [f"{prefix}{note}" for note in uninspected(model, graph)]
    done = _converted(model, graph, wanted, prefix)
    done.notes[:0] = notes
    for name, why in opaque.items():
        _join(done, _by_parts(model.get_submodule(name), wanted, f"{prefix}{name}.", why))
    return done


def _by_parts(model: nn.Module, wanted: _Wanted, prefix: str, why: str) -> Conversion:
    """Convert the parts of a network that cannot be traced: those with one argument, and the sequences."""
    name, wanted = prefix.rstrip(".") or type(model).__name__, wanted.of_parts()
    done = Conversion(model, notes=[f"{name}: only its parts, as it cannot be traced: {why}"])
    _convert_parts(model, wanted, prefix, done, {})
    return done


def _convert_parts(
    model: nn.Module, wanted: _Wanted, prefix: str, done: Conversion, made: dict[nn.Module, nn.Module]
) -> None:
    for name, part in [(name, part) for name, part in model._modules.items() if part is not None]:
        if part not in made and list(part.children()):
            made[part] = _converted_part(part, wanted, f"{prefix}{name}.", done, made)
        model._modules[name] = made.get(part, part)
    if type(model).forward is nn.Sequential.forward:
        _join(done, _chain(model, wanted, prefix))


def _converted_part(
    part: nn.Module, wanted: _Wanted, prefix: str, done: Conversion, made: dict[nn.Module, nn.Module]
) -> nn.Module:
    if takes_one_argument(part) and not isinstance(part, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        try:
            inner = _as_a_whole(part, wanted, prefix)
        except Untraceable:
            pass
        else:
            _join(done, inner)
            keep_attributes(inner.network, part)
            return inner.network
    _convert_parts(part, wanted, prefix, done, made)
    return part


def _chain(sequence: nn.Module, wanted: _Wanted, prefix: str) -> Conversion:
    """Convert the layers of a sequence, which stays one."""
    done = _converted(sequence, Chain().trace(sequence), wanted, prefix)
    graph = done.network.graph
    assert isinstance(graph, fx.Graph)
    sequence._modules.clear()
    for node in graph.nodes:
        if node.op == "call_module":  # a module may be called twice
            called = name_of(node) if name_of(node) not in sequence._modules else node.name
            sequence.add_module(called, done.network.get_submodule(name_of(node)))
    return done


def _join(done: Conversion, other: Conversion) -> None:
    done.places += other.places
    done.notes += other.notes


def _converted(model: nn.Module, graph: fx.Graph, wanted: _Wanted, prefix: str) -> Conversion:
    """Convert a traced network in place."""
    modules = dict(model.named_modules())
    for node in list(graph.nodes):
        before = source(node)
        if before is not None and type(module_of(node, modules)) is nn.Identity:
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    lost = remove_norms(graph, modules, wanted.tied) if wanted.normalization == "remove" else []
    network = Traced(model, graph, type(model).__name__)
    done = Conversion(network, notes=[f"{prefix}{name}: removed, with no layer to fold it into" for name in lost])
    placing = _Placing(network, modules, wanted)
    for node in list(network.graph.nodes):
        found = find(node, modules)
        if found is not None:
            place = placing.at(node, found)
            done.places.append(replace(place, activation=prefix + place.activation, before=prefix + place.before))
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    return done


class _Placing:
    """Puts Farkas layers and completions before the activations of a network."""

    def __init__(self, network: fx.GraphModule, modules: Modules, wanted: _Wanted) -> None:
        self.network, self.modules, self.wanted = network, modules, wanted

    def at(self, activation: fx.Node, found: Found) -> Place:
        """Convert what stands before an activation."""
        before = source(activation)
        place = Place(name_of(activation), name_of(before), LEFT, found.note)
        if found.cutoff is None or before is None:
            return place
        rule = replace(self.wanted.rule, cutoff=found.cutoff)
        if isinstance(module_of(before, self.modules), (FarkasLayer, FarkasCompletion)):
            return replace(place, why="is one already")
        if is_in_place(activation, self.modules):  # what is used later has been overwritten
            later = set(itertools.dropwhile(lambda node: node is not activation, self.network.graph.nodes)) - {
                activation
            }
            before.replace_all_uses_with(activation, delete_user_cb=later.__contains__)
        norm = norm_of(before, self.modules)
        layer = before if norm is None else source(before)
        assert layer is not None
        why = why_not(layer, self.modules, self.wanted.tied)
        if norm and not why and (self.wanted.normalization == "keep" or not is_single(before, norm[0])):
            why = "normalized before the activation"
        if why:
            return self._complete(
                activation, before, rule, replace(place, form=COMPLETION, why=_joined(why, found.note))
            )
        module = self.modules[str(layer.target)]
        self._set(str(layer.target), as_farkas(module, rule))
        added = "" if isinstance(module.bias, nn.Parameter) else "with a bias"
        moved = "" if norm is None else f"{norm[0]} moved behind the activation"
        if norm is not None:
            self._move_behind(before, norm[1], activation)
        return replace(place, before=name_of(layer), form=LAYER, why=_joined(added, moved, found.note))

    def _set(self, target: str, module: nn.Module) -> None:
        parent, _, last = target.rpartition(".")
        setattr(self.network.get_submodule(parent), last, module)
        self.modules[target] = module

    def _move_behind(self, norm: fx.Node, module: nn.Module, activation: fx.Node) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()  # they are those of other values
        before = source(norm)
        assert before is not None
        norm.replace_all_uses_with(before)
        with self.network.graph.inserting_after(activation):
            moved = self.network.graph.node_copy(norm, lambda each: activation if each is before else each)
        activation.replace_all_uses_with(moved, delete_user_cb=lambda user: user is not moved)
        self.network.graph.erase_node(norm)

    def _complete(self, activation: fx.Node, before: fx.Node, rule: FarkasRule, place: Place) -> Place:
        channels = channels_of(before, self.modules)
        if channels is None:
            return replace(place, form=LEFT, why="the number of its channels is not known")
        if channels.number < 2:
            return replace(place, form=LEFT, why="a single channel cannot be the aggregate of others")
        made = FarkasCompletion(channels.number, replace(rule, learn_lambda=False), channels.dim)
        some = next((each for each in self.network.parameters() if each.is_floating_point()), None)
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
