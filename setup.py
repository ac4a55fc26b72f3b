"""The packages of a wheel; everything else is in pyproject.toml.

The YAML files lie in `conf/` of a checkout and in `farkas_exp/conf/` of a wheel. An editable installation is the
checkout itself, put on Python's path whole: Hydra looks for `hydra_plugins` in folders only.
"""

import sys

from setuptools import find_namespace_packages, setup

packages = find_namespace_packages(include=["farkas_exp", "farkas_exp.*", "hydra_plugins.*"])
if "editable_wheel" in sys.argv:
    setup(packages=packages, package_dir={"": "."})
else:
    setup(packages=[*packages, "farkas_exp.conf"], package_dir={"farkas_exp.conf": "conf"})
