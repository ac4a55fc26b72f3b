"""What the lecture derives, computed.

`propagation`: how far random residual networks stretch their input; `toys`: small losses and their stationary points.
"""
