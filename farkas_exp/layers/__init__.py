"""Farkas layers and what surrounds them: activations with their cutoffs, normalizations, certificates.

The mathematics of the paper and nothing else; `farkas_exp.kernels` has faster forms. `catalogue` describes each
activation, normalization and aggregation without PyTorch.
"""
