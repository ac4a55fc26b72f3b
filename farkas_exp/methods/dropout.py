"""Annealed dropout after every activation (Rennie et al. 2014): noise that breaks the symmetry of a zero start."""

from torch import nn

from farkas_exp.config.schema import Config, DropoutConfig
from farkas_exp.layers.activation import Activation
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import Method


def dropout_rate(config: DropoutConfig, epoch: int, epochs: int) -> float:
    """p_t = p_0 max(0, 1 - t / T) in epoch t (from 0) of a run of `epochs`, T = anneal * epochs; p_0 without annealing.

    The separation paper only names annealed dropout; the linear decay to zero is from Rennie et al.
    """
    if not config.anneal:
        return config.rate
    return config.rate * max(0.0, 1 - epoch / (config.anneal * epochs))


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give every activation of `model` this dropout rate; it acts in training mode only."""
    for module in model.modules():
        if isinstance(module, Activation):
            module.dropout = rate


class Dropout(Method):
    """Dropout with the rate of the epoch."""

    @classmethod
    def executed_as(cls, config: Config, mode: str) -> str:
        # a rate that changes cannot be recorded
        if not config.dropout.anneal or mode == "none":
            return mode
        if config.compile != "auto":
            raise UserError(
                f"compile: {mode} would freeze the dropout rate, which is annealed; use compile=auto or none"
            )
        return "none"

    def begin_epoch(self, epoch: int) -> None:
        """Set the rate of the epoch."""
        set_dropout(self.model, dropout_rate(self.config.dropout, epoch, self.config.epochs))
