"""The package's own methods, in the order in which they act."""

from farkas_exp.methods import adversarial, dropout, norm_bias, rank_projection, separation

__all__ = ["adversarial", "dropout", "norm_bias", "rank_projection", "separation"]
