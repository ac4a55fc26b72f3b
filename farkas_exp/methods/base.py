"""The protocol of a method; each part does nothing by default.

A method is a class that is registered by its name in a group of the configuration, here with an option of its own:

    class Mine(Regularizer):
        def penalty(self, logits):
            own = self.config.regularizer
            return own.strength * logits.abs().pow(own.power).mean()

    REGULARIZERS.register("mine", "my_package.mine:Mine", options={"strength": None, "alone": None, "power": 2.0})
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from farkas_exp.config import Config
from farkas_exp.data.base import ImageData
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import REGULARIZERS, methods_of


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
        mixes: whether its `mix` changes the labels, so that the training error is one of mixed images.
    """

    mixes: ClassVar[bool] = False

    def __init__(self, training: Training) -> None:
        self.training, self.config, self.model = training, training.config, training.model

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

    def learning_rate(self, scheduled: float, epoch: int) -> float:
        """The learning rate of a step of `epoch` (from 0) in place of the `scheduled` one."""
        return scheduled

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels for the step, drawn anew in every step; labels may become shares, (N, K)."""
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

    @property
    def alone(self) -> bool:
        """Whether penalties are trained on without the loss."""
        return False

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
        """What a checkpoint must keep of it, besides the configuration."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over its `state`."""


class Regularizer(Method):
    """A method of the group `regularizer`, whose penalty has a strength and may be trained on `alone`."""

    @classmethod
    def refuses(cls, config: Config, world_size: int) -> None:
        own = config.regularizer
        if "strength" in REGULARIZERS[own.name].options and not own.strength:
            raise UserError(
                f"regularizer.strength: {own.name} does nothing at 0; give a number above 0, or regularizer=none"
            )

    @property
    def alone(self) -> bool:
        return self.config.regularizer.alone


def chosen(config: Config) -> list[type[Method]]:
    """The methods of a configuration, in the order in which they act."""
    return [cast("type[Method]", method.build) for method in methods_of(config)]


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
    """The methods of a run, in the order in which they act."""
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
