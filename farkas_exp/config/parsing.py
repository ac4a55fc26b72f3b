"""From the nested mapping that Hydra composes to a frozen `Config`, or to one line that says what is wrong."""

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from farkas_exp.config.extensions import extended, extras
from farkas_exp.config.folders import home, labelled
from farkas_exp.config.needs import one_of
from farkas_exp.config.options import check_keys, declared, fields_of, walk, without_effect
from farkas_exp.config.pairs import check_pairs
from farkas_exp.config.schema import Config
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.registry import load_plugins


def parse(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping against the schema and return the frozen `Config`, with the dataset's label filled in.

    Raises:
        UserError: a key is unknown, or a value is missing, of the wrong type, out of range or without effect.
    """
    load_plugins(_convert(tuple[str, ...], values.get("plugins") or (), "plugins"))  # plugins extend the schema
    config = _build(Config, values, "")
    config = dataclasses.replace(config, dataset=labelled(config.dataset))
    check_keys(list(walk(config)), config)
    check_pairs(config)
    return config


def parse_group(key: str, values: Mapping[str, Any]) -> Any:
    """Check the values of one group by themselves and return the group as `parse` does, without a filled-in label.

    Raises:
        UserError: as `parse`.
    """
    return _convert(fields_of(Config)[key].type, values, key)


def with_options(given: Any, options: Mapping[str, Any]) -> Any:
    """A group, given as itself, as a mapping of its keys or by its name, with further options."""
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return dataclasses.replace(given, **options)
    return {**given, **options} if isinstance(given, Mapping) else {"name": given, **options}


def build_groups(**given: Any) -> types.SimpleNamespace:
    """Build single groups for code that has no whole configuration; checks that involve other groups are skipped.

    Args:
        given: by key, such as "normalization", the group, a mapping of its keys, or its name.

    Raises:
        UserError: as `parse`.
    """
    schemas = fields_of(Config)
    made = {
        key: group if isinstance(group, schemas[key].type)  # type: ignore[arg-type]
        else parse_group(key, with_options(group, {}))
        for key, group in given.items()
    }  # fmt: skip
    groups = types.SimpleNamespace(**made)
    check_keys([each for key, group in made.items() for each in walk(group, f"{key}.")], groups)
    return groups


def schema_defaults() -> dict[str, Any]:
    """Every key of the schema with its default ("???" if it has none), on which Hydra composes."""

    def default(f: "dataclasses.Field[Any]") -> Any:
        if dataclasses.is_dataclass(f.type):
            return defaults(f.type, f.name)
        value = "???" if f.default is dataclasses.MISSING else f.default
        return list(value) if isinstance(value, tuple) else value

    def defaults(schema: Any, path: str = "") -> dict[str, Any]:
        brought = {key: default(extra.field) for key, extra in extras(path).items()}
        return brought | {f.name: default(f) for f in dataclasses.fields(schema)}

    return defaults(Config)


def unknown_key(path: str) -> UserError:
    """The error for an unknown key: its full path and the nearest valid key."""
    schema: Any = Config
    parts = path.split(".")
    for depth, part in enumerate(parts):
        fields = fields_of(schema)
        if part not in fields or (depth + 1 < len(parts) and not dataclasses.is_dataclass(fields[part].type)):
            return unknown(path, part, [*fields, *extras(".".join(parts[:depth]))])
        schema = fields[part].type
    return UserError(f"{path}: cannot be changed here")


def _build(schema: type, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{path or 'config'}: expected a group of keys, got {values!r}")
    brought = extras(path)
    if brought:
        schema = extended(path, schema, values.get("name", fields_of(schema)["name"].default))
    fields = fields_of(schema)
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key in brought and key not in fields:
            given, extra = _convert(brought[key].type, value, where), brought[key]
            if given != extra.field.default:
                raise without_effect(where, given, one_of(f"{path}.name", extra.names), extra.field.default)
            continue
        if key not in fields:
            raise unknown(where, key, [*fields, *brought])
        arguments[key] = _convert(fields[key].type, value, where)
        if declared(fields[key]).is_path and arguments[key] is not None:
            arguments[key] = home(arguments[key], where)
    for name, f in fields.items():
        if name not in arguments and f.default is dataclasses.MISSING:
            raise _missing(f"{path}.{name}" if path else name)
    return schema(**arguments)


def _missing(where: str) -> UserError:
    return UserError(f"{where}: missing; give it a value on the command line ({where}=...)")


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` converted to the type `hint`, or a `UserError` with the key, the value and the type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if getattr(value, "ndim", None) == 0:  # a number or text of NumPy, which cannot be recorded
        value = value.item()
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if isinstance(value, str) and value == "???":
        raise _missing(where)
    if origin is Literal:
        if value not in args:
            raise unknown(where, value, map(str, args))
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list such as [1,2,3], got {value!r}")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if hint is str and isinstance(value, (bool, float)):  # its spelling is lost: 1e3 is already 1000.0
        raise UserError(f"{where}: expected a text, got {value!r}; write it in quotes")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {_TYPE_NAMES[hint]}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value!r}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
