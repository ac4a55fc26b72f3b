"""Names that a package offers and imports when they are first used, so that importing it costs nothing."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load(package: str, places: Mapping[str, str], name: str) -> Any:
    """The attribute `name` of `package`, from the module where `places` says it is; for a package's `__getattr__`.

    Raises:
        AttributeError: the package offers no such name.
    """
    if name not in places:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(import_module(places[name]), name)
    setattr(sys.modules[package], name, value)
    return value
