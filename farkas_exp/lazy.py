"""Names that a package offers and imports when they are first used, so that importing it costs nothing."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def load(package: str, places: Mapping[str, Sequence[str]], name: str) -> Any:
    """The attribute `name` of `package`; for the `__getattr__` of a package.

    Args:
        package: the package's name.
        places: the names that it offers, by the submodule that has them.
        name: what is asked for.

    Raises:
        AttributeError: the package offers no such name.
    """
    for place, names in places.items():
        if name in names:
            value = getattr(import_module(f"{package}.{place}"), name)
            setattr(sys.modules[package], name, value)
            return value
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
