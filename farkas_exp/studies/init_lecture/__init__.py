"""The lecture on the initialization of residual networks, computed."""
