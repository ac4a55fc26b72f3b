"""What is measured of a network beside its loss and error."""

from farkas_exp.diagnostics.activity import LayerActivity, measure_activity

__all__ = ["LayerActivity", "measure_activity"]
