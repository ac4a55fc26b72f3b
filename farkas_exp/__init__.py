"""How do deep networks train without normalization?

A config-driven experiment framework and reproduction of "Farkas layers: don't shift the data, fix the geometry".
"""

__version__ = "0.1.0"
