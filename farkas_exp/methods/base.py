"""What a method is to the training: a value with these parts. Each does nothing unless a method says otherwise.

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
from farkas_exp.data import ImageData
from farkas_exp.machine.errors import unknown
from farkas_exp.registry import load_plugins


@dataclass(frozen=True)
class Training:
    """What a method may work with.

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
    """One method in one run. All parts are called by every process, in the order of the class's methods.

    Attributes:
        group: the group of the configuration that chooses it.
        names: what `group.name` calls it.
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
        """Refuse what it cannot do, before anything is written.

        Raises:
            UserError: an option, or a number of processes, that does not fit.
        """

    @classmethod
    def executed_as(cls, config: Config, mode: str) -> str:
        """How a step can be executed with it, where `mode` (`execution.choose_mode`) is meant.

        Raises:
            UserError: not in the mode that the user asked for.
        """
        return mode

    def begin_epoch(self, epoch: int) -> None:
        """Before the first step of `epoch` (from 0), also where a run goes on within it."""

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels that the step is made with, drawn anew in each; labels may become (N, K) shares."""
        return images, labels

    def prepare(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images that the step is made on, a part of what may be compiled or recorded."""
        return images

    def watching(self) -> AbstractContextManager[Any]:
        """A context around the forward pass, for what happens inside of the network."""
        return nullcontext()

    def penalty(self, logits: Tensor) -> Tensor | None:
        """What is added to the loss, a scalar; None adds nothing."""
        return None

    def change_gradients(self) -> None:
        """Before the optimizer's step, which takes the gradients as they then are."""

    def after_step(self) -> None:
        """After the optimizer's step."""

    def after_epoch(self, epoch: int) -> bool:
        """After the training of `epoch` (from 0), before the evaluation; whether it has changed the weights."""
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
CATALOGUE = "farkas_exp.methods.catalogue"


def register(method: type[Method]) -> type[Method]:
    """Add a method; in its place in the order of registration it acts beside the others.

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
    """The methods that the configuration asks for.

    Raises:
        UserError: a group names a method that there is not.
    """
    import_module(CATALOGUE)
    groups = {method.group for method in _METHODS if method.names}
    if not all(_is_known(config, group) for group in groups):
        load_plugins()
    for group in sorted({method.group for method in _METHODS if method.names}):
        if not _is_known(config, group):
            names = [name for method in _METHODS if method.group == group for name in method.names]
            raise unknown(f"{group}.name", getattr(config, group).name, ["none", *names])
    return [method for method in _METHODS if method.is_asked(config)]


def execution_mode(config: Config, mode: str, world_size: int = 1) -> str:
    """How steps are executed where `mode` is meant, as far as the methods allow it.

    Raises:
        UserError: a method refuses the configuration, or the mode that the user asked for.
    """
    for method in chosen(config):
        method.refuses(config, world_size)
        mode = method.executed_as(config, mode)
    return mode


def build_methods(training: Training) -> list[Method]:
    """The methods that the configuration asks for, in the order in which they act."""
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


def _is_known(config: Config, group: str) -> bool:
    name = getattr(config, group).name
    return name == "none" or any(name in method.names for method in _METHODS if method.group == group)
