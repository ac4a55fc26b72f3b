"""Names that a package imports at their first use, so that importing the package costs nothing."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def load(package: str, places: Mapping[str, Sequence[str]], name: str) -> Any:
    """The attribute `name` of a package, for its `__getattr__`; `places` are the names it offers, by their submodules.

    Raises:
        AttributeError: there is no such name.
    """
    for place, names in places.items():
        if name in names:
            value = getattr(import_module(f"{package}.{place}"), name)
            setattr(sys.modules[package], name, value)
            return value
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
