"""Farkas layers and what surrounds them: activations with their cutoffs, normalizations, certificates.

The mathematics of the paper and nothing else; `farkas_exp.kernels` has faster forms. `catalogue` describes each
activation, normalization and aggregation without PyTorch.
"""

from typing import TYPE_CHECKING, Any

from farkas_exp.lazy import load

if TYPE_CHECKING:
    from farkas_exp.layers.activation import Activation
    from farkas_exp.layers.certificate import Certificate, Certificates, certify, lambda_b
    from farkas_exp.layers.completion import FarkasCompletion
    from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer, FarkasLinear, farkas_conv2d, farkas_linear
    from farkas_exp.layers.normalization import (
        DynamicTanh,
        GroupNorm,
        RMSNorm,
        build_normalization,
        dynamic_tanh,
        group_norm,
        rms_norm,
    )
    from farkas_exp.layers.paths import in_mode, plain_path
    from farkas_exp.layers.residual import (
        FarkasResidualConv2d,
        ResidualBlock,
        ResidualConv2d,
        ResidualLayer,
        Scaling,
        append_shortcut,
    )
    from farkas_exp.layers.rule import FarkasRule
    from farkas_exp.layers.watching import each_pre_activation, watch_pre_activations
    from farkas_exp.registry import ACTIVATIONS, AGGREGATIONS, NORMALIZATIONS

_PLACES = {
    "activation": ("Activation",),
    "certificate": ("Certificate", "Certificates", "certify", "lambda_b"),
    "completion": ("FarkasCompletion",),
    "farkas": ("FarkasConv2d", "FarkasLayer", "FarkasLinear", "farkas_conv2d", "farkas_linear"),
    "normalization": (
        "DynamicTanh", "GroupNorm", "RMSNorm", "build_normalization", "dynamic_tanh", "group_norm", "rms_norm",
    ),
    "paths": ("in_mode", "plain_path"),
    "residual": (
        "FarkasResidualConv2d", "ResidualBlock", "ResidualConv2d", "ResidualLayer", "Scaling", "append_shortcut",
    ),
    "rule": ("FarkasRule",),
    "watching": ("each_pre_activation", "watch_pre_activations"),
    "catalogue": ("ACTIVATIONS", "AGGREGATIONS", "NORMALIZATIONS"),
}  # fmt: skip

__all__ = [
    "ACTIVATIONS", "AGGREGATIONS", "NORMALIZATIONS", "Activation", "Certificate", "Certificates", "DynamicTanh",
    "FarkasCompletion", "FarkasConv2d", "FarkasLayer", "FarkasLinear", "FarkasResidualConv2d", "FarkasRule",
    "GroupNorm", "RMSNorm", "ResidualBlock", "ResidualConv2d", "ResidualLayer", "Scaling", "append_shortcut",
    "build_normalization", "certify", "dynamic_tanh", "each_pre_activation", "farkas_conv2d", "farkas_linear",
    "group_norm", "in_mode", "lambda_b", "plain_path", "rms_norm", "watch_pre_activations",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    return load(__name__, _PLACES, name)
