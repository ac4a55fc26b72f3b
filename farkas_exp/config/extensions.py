"""Options that a choice brings along, such as those of a network or normalization from another package.

An entry of a registry lists its options with their defaults. Options that the schema of the group lacks become keys of
the group: `extras` lists them, and `extended` adds those of a choice to the schema.
"""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

from farkas_exp import registry
from farkas_exp.config.options import declared, fields_of, option
from farkas_exp.config.schema import Config
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import Registry

S = TypeVar("S")


_COMPLETED = ("model", "dataset")
"""Groups in which null stands for a choice's own default."""


@dataclass(frozen=True)
class Extra:
    """A key that the choices `names` of a group bring: its field, and the type of its values."""

    field: Any
    type: Any
    names: tuple[str, ...]


@functools.cache
def registries() -> dict[str, Registry[Any]]:
    """The registry of each group whose choices are registered."""
    found = [value for value in vars(registry).values() if isinstance(value, Registry)]
    return {each.key.removesuffix(".name"): each for each in found if each.key.endswith(".name")}


def extras(group: str) -> dict[str, Extra]:
    """The keys of a group that its schema lacks, by name.

    Raises:
        UserError: two choices declare the same key differently, one gives another default to a key of the schema, or a
            default is out of range or does not show its type.
    """
    entries = registries().get(group)
    return {} if entries is None else _extras(group, tuple(entries))


@functools.cache
def _extras(group: str, names: tuple[str, ...]) -> dict[str, Extra]:
    entries, known = registries()[group], fields_of(cast(type, fields_of(Config)[group].type))
    found: dict[str, Extra] = {}
    for name in names:  # passed in, since the registry may grow
        for key, given in entries[name].options.items():
            if key in known:
                if given is not None and (group not in _COMPLETED or known[key].default is not None):
                    raise UserError(
                        f"{group}.{key}: {name} gives it a default, and the group's own is {known[key].default!r}; list"
                        " it with None, or call the option by another word"
                    )
                continue
            made = given if isinstance(given, dataclasses.Field) else option(given)
            before = found.get(key)
            if before is not None and (before.field.default, declared(before.field)) != (made.default, declared(made)):
                raise UserError(
                    f"{group}.{key}: {before.names[0]} and {name} bring it with different defaults or ranges; one of"
                    " them has to call it by another word"
                )
            declared(made).check_range(f"{group}.{key}", made.default)
            bringing = (*(() if before is None else before.names), name)
            found[key] = Extra(made, _type(f"{group}.{key}", made.default), bringing)
    return found


def every_extra() -> dict[str, Extra]:
    """The keys that the schema lacks, of all groups, by dotted key."""
    return {f"{group}.{key}": extra for group in fields_of(Config) for key, extra in extras(group).items()}


def _type(where: str, default: Any) -> Any:
    if isinstance(default, (bool, int, float, str)):
        return type(default)
    if isinstance(default, tuple) and default:
        return tuple[_type(where, default[0]), ...]  # type: ignore[misc]
    raise UserError(f"{where}: its default {default!r} does not show whether it is a number, a text or a list")


def extended(group: str, schema: type[S], name: Any) -> type[S]:
    """The schema of a group with the keys of the choice `name`."""
    own = {key: extra for key, extra in extras(group).items() if name in extra.names}
    return _extended(schema, tuple((key, extra.type, extra.field) for key, extra in own.items())) if own else schema


@functools.cache
def _extended(schema: Any, own: tuple[tuple[str, Any, Any], ...]) -> Any:
    fields = [(key, hint, dataclasses.field(default=f.default, metadata=f.metadata)) for key, hint, f in own]
    return dataclasses.make_dataclass(schema.__name__, fields, bases=(schema,), frozen=True)


def foreign_code(config: Any) -> dict[str, str]:
    """The packages from outside that a configuration names, or whose choices it takes, with digests of their source."""
    named = [entries.get(entries.name_in(config)) for entries in registries().values()]
    sources = [entry.source for entry in (*named, *registry.methods_of(config)) if entry is not None]
    modules = [getattr(each, "__module__", "") if callable(each) else each.partition(":")[0] for each in sources]
    modules += config.plugins
    known = {"", "farkas_exp", "torch"}  # their versions are recorded
    names = {module.partition(".")[0] for module in modules} - known
    return {name: digest for name in sorted(names) if (digest := _digest(name))}


@functools.cache
def _digest(package: str) -> str:
    """A digest of a package's, or a single module's, source; empty if it cannot be read."""
    try:
        spec = find_spec(package)
        folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
        files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
        files = files or [Path(str(spec and spec.origin))]
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]
    except (ImportError, ValueError, OSError):  # made in a notebook, or in an archive
        return ""
