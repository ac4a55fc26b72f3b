"""What may be added to the loss, by name: a regularizer computes the logits of a batch and, beside them, its term."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from torch import Tensor, nn

from farkas_exp.config import Config, RegularizerConfig
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.methods.norm_bias import NormBias, norm_bias
from farkas_exp.methods.separation import Separation, separation_penalty
from farkas_exp.training.execution import TORCH_COMPILE_MODES

__all__ = ["REGULARIZERS", "Regularizer", "build_regularizer", "norm_bias", "separation_penalty"]


class Regularizer(Protocol):
    """Computes the logits itself, so that it may watch what happens inside of the network."""

    def __call__(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the images, and the term to be added to the loss, a scalar."""
        ...


def _separation(model: nn.Module, config: RegularizerConfig, units: bool, points: bool) -> Regularizer:
    _refuse(config, ("norm_squared",))
    return Separation(
        model, config.strength, units=units, points=points, coefficient=config.coefficient, rho=config.rho,
        conv_point=config.conv_point, include_output=config.include_output,
    )  # fmt: skip


def _norm_bias(model: nn.Module, config: RegularizerConfig) -> Regularizer:
    own = ("norm_squared",) if config.name == "norm_bias" else ()
    _refuse(config, {"coefficient", "rho", "conv_point", "include_output", "norm_squared"} - set(own))
    return NormBias(model, config.strength, config.norm_squared)


REGULARIZERS: Mapping[str, Callable[[nn.Module, RegularizerConfig], Regularizer]] = {
    "sep_u": lambda model, config: _separation(model, config, units=True, points=False),
    "sep_p": lambda model, config: _separation(model, config, units=False, points=True),
    "sep_up": lambda model, config: _separation(model, config, units=True, points=True),
    "weight_decay": _norm_bias,  # mu = 0
    "norm_bias": _norm_bias,
}
"""Builders by name, beside `none`."""


def build_regularizer(config: Config, model: nn.Module) -> Regularizer | None:
    """The regularizer of `config` for `model`; None for `none`, which costs nothing.

    Raises:
        UserError: an unknown name, or an option that does not fit the name.
    """
    wanted = config.regularizer
    if wanted.name == "none":
        _refuse(wanted, [f.name for f in dataclasses.fields(wanted) if f.name != "name"])
        return None
    if wanted.name not in REGULARIZERS:
        raise unknown("regularizer.name", wanted.name, ["none", *REGULARIZERS])
    regularizer = REGULARIZERS[wanted.name](model, wanted)
    if config.compile in TORCH_COMPILE_MODES and isinstance(regularizer, Separation):
        raise UserError(
            f"regularizer.name: {wanted.name} watches the pre-activations, which compiled networks do not show;"
            " use compile=auto or none"
        )
    return regularizer


def _refuse(config: RegularizerConfig, names: Iterable[str]) -> None:
    """Refuse an option that has a value although the regularizer does not have it."""
    defaults = RegularizerConfig()
    for name in sorted(names):
        if getattr(config, name) != getattr(defaults, name):
            raise UserError(
                f"regularizer.{name}: regularizer {config.name} has no such option;"
                f" leave it at {getattr(defaults, name)}"
            )
