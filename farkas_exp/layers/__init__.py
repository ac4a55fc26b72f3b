"""Farkas layers and what surrounds them: activations with their cutoffs, normalizations, certificates."""

from farkas_exp.layers.activation import ACTIVATIONS, Activation, activation_cutoff
from farkas_exp.layers.augmented import AGGREGATIONS
from farkas_exp.layers.certificate import Certificate, certify, lambda_b
from farkas_exp.layers.farkas import (
    FarkasConv2d,
    FarkasLayer,
    FarkasLinear,
    farkas_conv2d,
    farkas_linear,
)
from farkas_exp.layers.normalization import NORMALIZATIONS, GroupNorm, build_normalization, group_norm
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.residual import (
    FarkasResidualConv2d,
    ResidualBlock,
    ResidualConv2d,
    ResidualLayer,
    Scaling,
    append_shortcut,
)
from farkas_exp.layers.watching import watch_pre_activations

__all__ = [
    "ACTIVATIONS",
    "AGGREGATIONS",
    "NORMALIZATIONS",
    "Activation",
    "Certificate",
    "FarkasConv2d",
    "FarkasLayer",
    "FarkasLinear",
    "FarkasResidualConv2d",
    "GroupNorm",
    "ResidualBlock",
    "ResidualConv2d",
    "ResidualLayer",
    "Scaling",
    "activation_cutoff",
    "append_shortcut",
    "build_normalization",
    "certify",
    "farkas_conv2d",
    "farkas_linear",
    "group_norm",
    "lambda_b",
    "plain_path",
    "watch_pre_activations",
]
