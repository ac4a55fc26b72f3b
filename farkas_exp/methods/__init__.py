"""What may change a training beside its loss: regularizers, adversarial training, dropout, rank projections."""

from farkas_exp.methods.base import (
    Method,
    Training,
    build_methods,
    changes_gradients,
    execution_mode,
    penalized,
    register,
)

__all__ = ["Method", "Training", "build_methods", "changes_gradients", "execution_mode", "penalized", "register"]
