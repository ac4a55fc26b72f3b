"""Dropout after every activation, annealed (Rennie et al. 2014): the noise that breaks the symmetry of a zero start."""

from torch import nn

from farkas_exp.config import Config, DropoutConfig
from farkas_exp.errors import UserError
from farkas_exp.layers import Activation


def dropout_rate(config: DropoutConfig, epoch: int, epochs: int) -> float:
    """p_t = p_0 max(0, 1 - t / T) in epoch t (from 0) of a run of `epochs`, T = anneal * epochs; p_0 without annealing.

    The separation paper only names annealed dropout; the linear fall to zero is the one of Rennie et al.
    """
    if not config.anneal:
        return config.rate
    return config.rate * max(0.0, 1 - epoch / (config.anneal * epochs))


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give every activation of `model` this dropout rate; it acts in training mode only."""
    for module in model.modules():
        if isinstance(module, Activation):
            module.dropout = rate


def check_dropout(config: Config) -> None:
    """Refuse a rate that changes every epoch for a compiled network.

    Raises:
        UserError: annealed dropout with compile=true.
    """
    if config.compile and config.dropout.rate and config.dropout.anneal:
        raise UserError("dropout.anneal: a rate that changes every epoch recompiles the network; use compile=false")
