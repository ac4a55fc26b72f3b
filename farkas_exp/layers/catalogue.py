"""Activations, normalizations, weights and aggregations by name, and what each of them is. Imports no PyTorch.

The cutoff of an activation psi is the c below which it is (nearly) zero or flat, which Corollary 3.3 asks for: here the
point below which |psi'| <= 0.01.

| activation | psi' below zero | c |
|---|---|---|
| relu | 0 | 0 |
| leaky_relu, slope 0.01 | 0.01 | 0 |
| elu, alpha = 1 | exp(x) | ln 0.01 = -4.605 |
| selu | scale * alpha * exp(x) | ln(0.01 / (scale * alpha)) = -5.169 |
| softplus | sigmoid(x) | logit(0.01) = -4.595 |
| tailored | its slope times its scale, the same everywhere | none: no unit is dead |
"""

import math

from farkas_exp.config.options import option
from farkas_exp.registry import ACTIVATIONS, AGGREGATIONS, NORMALIZATIONS, WEIGHTS

FLAT_SLOPE = 0.01
"""The slope at and below which an activation counts as flat."""
_SELU_SLOPE = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717

# in place: no convolution and no normalization here needs what it returned for its gradient
ACTIVATIONS.register("relu", "torch.nn.functional:relu_", cutoff=0.0)
ACTIVATIONS.register("leaky_relu", "torch.nn.functional:leaky_relu", cutoff=0.0)
ACTIVATIONS.register("elu", "torch.nn.functional:elu", cutoff=math.log(FLAT_SLOPE))
ACTIVATIONS.register("selu", "torch.nn.functional:selu", cutoff=math.log(FLAT_SLOPE / _SELU_SLOPE))
ACTIVATIONS.register("softplus", "torch.nn.functional:softplus", cutoff=math.log(FLAT_SLOPE / (1 - FLAT_SLOPE)))
ACTIVATIONS.register(
    "tailored", "farkas_exp.layers.tailored:tailored_relu", cutoff=-math.inf, fit="farkas_exp.layers.tailored:tailor",
    options={"target": option(0.9, above=0, below=1)},
)  # fmt: skip

_HERE = "farkas_exp.layers.normalization"
_STANDARDIZATION = "farkas_exp.layers.standardization"
_SHARED = {"position": None, "affine": None}
NORMALIZATIONS.register("none", f"{_HERE}:no_norm", label="no BN")
NORMALIZATIONS.register("batch", f"{_HERE}:batch_norm", label="BN", of_batch=True, options=_SHARED)
NORMALIZATIONS.register("layer", f"{_HERE}:layer_norm", label="LN", options=_SHARED)
NORMALIZATIONS.register("group", f"{_HERE}:grouped_norm", label="GN", options={**_SHARED, "groups": None})
NORMALIZATIONS.register("instance", f"{_HERE}:instance_norm", label="IN", maps_only=True, options=_SHARED)
NORMALIZATIONS.register("rms", f"{_HERE}:root_mean_square", label="RMS", options=_SHARED)
NORMALIZATIONS.register("dyt", f"{_HERE}:tanh", label="DyT", options={**_SHARED, "alpha": option(0.5, above=0)})

WEIGHTS.register("none", f"{_STANDARDIZATION}:leave_layers")
WEIGHTS.register("standardized", f"{_STANDARDIZATION}:standardize_layers")
WEIGHTS.register("scaled", f"{_STANDARDIZATION}:scale_layers")

AGGREGATIONS.register("sum", "farkas_exp.layers.augmented:sum_coefficient")
AGGREGATIONS.register("mean", "farkas_exp.layers.augmented:mean_coefficient")
