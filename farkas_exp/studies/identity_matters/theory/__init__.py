"""Networks whose weights are written down instead of trained, and the statements that they prove.

`regression` has the landscape of linear residual networks (Section 2), `small_norm` their optimum of small norm
(Theorem 2.1), `exact_fit` the network that maps any sample to any labels (Theorem 3.2).
"""
