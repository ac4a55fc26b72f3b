"""The packages of a wheel; everything else is in pyproject.toml.

The YAML files lie in `conf/` of a checkout and in `farkas_exp/conf/` of a wheel, which pyproject.toml cannot say of
packages that are discovered.
"""

from setuptools import find_namespace_packages, setup

setup(packages=[*find_namespace_packages(include=["farkas_exp", "farkas_exp.*", "hydra_plugins.*"]), "farkas_exp.conf"])
