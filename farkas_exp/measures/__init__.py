"""Measurements of a network beside its loss and error. `catalogue` names them, without PyTorch."""
