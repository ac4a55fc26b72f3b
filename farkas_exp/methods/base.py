"""The protocol of a method; each part does nothing by default.

A method is a class that registers itself with the group of the configuration that chooses it:

    @register
    class Mine(Method):
        group, names = "regularizer", ("mine",)

        def penalty(self, logits):
            return self.config.regularizer.strength * logits.square().mean()
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor, nn

from farkas_exp.config import Config
from farkas_exp.data.base import ImageData
from farkas_exp.machine.errors import unknown
from farkas_exp.registry import load_plugins


@dataclass(frozen=True)
class Training:
    """What a method may use.

    Attributes:
        config: the run's configuration.
        model: the network.
        data: its images.
        forward: the network as a step executes it, in one process.
        share: gives every process the first one's running statistics.
    """

    config: Config
    model: nn.Module
    data: ImageData
    forward: Callable[[Tensor], Tensor]
    share: Callable[[], None] = lambda: None


class Method:
    """One method in one run. Every process calls all parts, in the order of this class.

    Attributes:
        group: the group of the configuration that chooses it.
        names: its names in `group.name`.
        mixes: whether its `mix` changes the labels, so that the training error is one of mixed images.
    """

    group: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[bool] = False

    def __init__(self, training: Training) -> None:
        self.training, self.config, self.model = training, training.config, training.model

    @classmethod
    def is_asked(cls, config: Config) -> bool:
        """Whether the configuration asks for it."""
        return getattr(config, cls.group).name in cls.names

    @classmethod
    def refuses(cls, config: Config, world_size: int) -> None:
        """Check the configuration, before anything is written.

        Raises:
            UserError: an option or a number of processes does not fit.
        """

    @classmethod
    def executed_as(cls, config: Config, mode: str) -> str:
        """The mode in which steps run with it, where `mode` is intended (`execution.choose_mode`).

        Raises:
            UserError: it cannot run in the mode that the user requested.
        """
        return mode

    def begin_epoch(self, epoch: int) -> None:
        """Act before the first step of `epoch` (from 0), also when a run continues within it."""

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels that the step is made with, drawn anew in each; labels may become (N, K) shares."""
        return images, labels

    def prepare(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images for the step, in a part that may be compiled or recorded."""
        return images

    def watching(self) -> AbstractContextManager[Any]:
        """A context around the forward pass, to watch the network inside."""
        return nullcontext()

    def penalty(self, logits: Tensor) -> Tensor | None:
        """A scalar to add to the loss, or None."""
        return None

    def change_gradients(self) -> None:
        """Before the optimizer's step, which takes the gradients as they then are."""

    def after_step(self) -> None:
        """After the optimizer's step."""

    def after_epoch(self, epoch: int) -> bool:
        """Act after `epoch` (from 0) and before its evaluation; return whether the weights changed."""
        return False

    def evaluating(self) -> AbstractContextManager[Any]:
        """A context around every evaluation of the network."""
        return nullcontext()

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep of it, beside the configuration."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over its `state`."""


_METHODS: list[type[Method]] = []


def register(method: type[Method]) -> type[Method]:
    """Register a method; methods act in the order of registration.

    Raises:
        ValueError: a name is taken.
    """
    taken = {(other.group, name) for other in _METHODS for name in other.names}
    for name in method.names:
        if (method.group, name) in taken:
            raise ValueError(f"{method.group}.name: {name!r} is registered already")
    _METHODS.append(method)
    return method


def chosen(config: Config) -> list[type[Method]]:
    """The methods of a configuration."""
    import_module("farkas_exp.methods.catalogue")
    if _without_method(config):
        load_plugins()
    for group, names in _without_method(config).items():
        raise unknown(f"{group}.name", getattr(config, group).name, names)
    return [method for method in _METHODS if method.is_asked(config)]


def _without_method(config: Config) -> dict[str, list[str]]:
    """The groups whose name in the configuration no method has, each with the names that there are."""
    names: dict[str, list[str]] = {}
    for method in _METHODS:
        if method.names:
            names.setdefault(method.group, ["none"]).extend(method.names)
    return {group: names[group] for group in sorted(names) if getattr(config, group).name not in names[group]}


def execution_mode(config: Config, mode: str, world_size: int = 1) -> str:
    """The mode in which steps run with all methods, where `mode` is intended."""
    for method in chosen(config):
        method.refuses(config, world_size)
        mode = method.executed_as(config, mode)
    return mode


def changes_gradients(method: Method) -> bool:
    """Whether it acts between the backward pass and the optimizer's step."""
    return type(method).change_gradients is not Method.change_gradients


def build_methods(training: Training) -> list[Method]:
    """The methods of a configuration, in the order in which they act."""
    return [method(training) for method in chosen(training.config)]


def penalized(
    methods: Sequence[Method], forward: Callable[[Tensor], Tensor], images: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The logits of the images, and what the methods add to the loss."""
    with ExitStack() as watched:
        for method in methods:
            watched.enter_context(method.watching())
        logits = forward(images)
    return logits, [term for method in methods if (term := method.penalty(logits)) is not None]
