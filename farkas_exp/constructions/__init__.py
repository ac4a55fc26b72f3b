"""Networks whose weights are written down instead of trained, and the statements that they prove.

From "Identity matters in deep learning" (Hardt and Ma 2017): `regression` has the landscape of linear residual networks
(Section 2), `small_norm` their optimum of small norm (Theorem 2.1), `exact_fit` the network that maps any sample to any
labels (Theorem 3.2).

From the lecture on the initialization of residual networks: `propagation` has how far random residual networks stretch
their input, `toys` small loss functions with their stationary points.
"""
