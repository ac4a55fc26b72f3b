"""The package's own methods, in the order in which they act."""

from farkas_exp.methods import (
    adversarial,
    anomaly,
    averaging,
    clipping,
    dropout,
    mixing,
    norm_bias,
    rank_projection,
    separation,
)

__all__ = [
    "adversarial", "anomaly", "averaging", "clipping", "dropout", "mixing", "norm_bias", "rank_projection",
    "separation",
]  # fmt: skip
