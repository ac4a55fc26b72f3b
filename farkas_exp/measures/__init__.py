"""What is measured of a network beside its loss and error."""

from farkas_exp.measures.activity import LayerActivity, dead_samples, measure_activity
from farkas_exp.measures.registry import MEASURES, Subject, check_measures, measure

__all__ = ["MEASURES", "LayerActivity", "Subject", "check_measures", "dead_samples", "measure", "measure_activity"]
