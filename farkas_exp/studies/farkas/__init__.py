"""Farkas layers: the paper's Tables 1 to 4, its figures and its claims, with control arms and small editions."""
