"""The errors of Hydra, OmegaConf and YAML as one line."""

import dataclasses
import re
import shlex
import typing
from typing import Any

import yaml
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.config import unknown_key
from farkas_exp.machine.errors import UserError, unknown


def one_line(error: BaseException) -> str:
    """The error in one line that names the key or file and what would be right."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error.__cause__, UserError):  # raised while Hydra built a launcher or sweeper
        return str(error.__cause__)
    if of_resolver := re.search(r"UserError raised while resolving interpolation: (.*)", text):
        return of_resolver.group(1)
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override), text)
    if isinstance(error, yaml.YAMLError):
        return _of_yaml(error)
    if isinstance(error, OmegaConfBaseException) and getattr(error, "full_key", None):
        return f"{error.full_key}: {_first_line(error)}"
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return str(unknown(group, name, [option for option in error.options if option != "schema"]))
    cause = _first_line(error.__cause__) if isinstance(error.__cause__, OmegaConfBaseException) else ""
    if in_file := re.match(r"In '(.+)': \w+ raised while composing config:\n(.+)\n\s+full_key: (.+)", text):
        file, what, key = in_file.groups()
        return f"{unknown_to_hydra(key) or f'{key}: {what}'} (in {file}.yaml)"
    if merging := re.match(r"Error merging override [~+]*([^=]+)", text):
        key, whole = merging.group(1), "Invalid type assigned" in cause
        return f"{key}: {f'cannot be changed as a whole; single values: {key}.KEY=VALUE' if whole else cause}"
    if ambiguous := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'\n", text):
        key, values = ambiguous.groups()
        text = _for_the_shell(f"{key}='{values}'")
        return f"{key}: several values are a sweep, with -m; a list is written {key}=[{values}], a text {text}"
    if there := re.match(r"Could not append to config. An item is already at '(.+)'", text):
        return f"{there.group(1)}: there already; set it without a +"
    key = re.search(r"Could not (?:override|append to config|delete from config) '([^'@]+)", text)
    if key and not text.startswith("In '") and not key.group(1).startswith("hydra."):
        return str(unknown_key(key.group(1)))
    if again := re.match(r"Multiple values for ([\w/]+)|([\w/]+) appears more than once in the final", text):
        group = again.group(1) or again.group(2)
        return f"{group}: chosen twice; write {group}=... without a +"
    of_another = re.search(r"Could not override '(hydra\.(launcher|sweeper)\.[^']+)", text) or re.search(
        r"unexpected keyword argument '(\w+)'(?s:.)*full_key: hydra\.(launcher|sweeper)$", text
    )
    if of_another:
        key, kind = of_another.groups()
        key = f"hydra.{kind}.{key.removeprefix(f'hydra.{kind}.')}"
        return f"{key}: unknown to the chosen hydra/{kind}; choose one that has it by hydra/{kind}=..."
    if absent := re.search(r"Could not override '(hydra\.[^']+)'\.\nTo append to your config use (\S+)", text):
        return f"{absent.group(1)}: not there yet; to add it: {absent.group(2)}"
    text += f"\n{cause}"  # what Hydra could not do with an override, and why
    words = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return words
    if isinstance(error, OSError):
        return f"{error.filename or 'this command'}: {error.strerror or words}"
    return f"cannot compose a configuration ({type(error).__name__}: {words})"


def unknown_to_hydra(key: str) -> UserError | None:
    """The error for a key `hydra.KEY` that Hydra does not have; what is chosen by name has keys of its own."""
    path, *parts = key.split(".")
    schema: Any = HydraConf if path == "hydra" else None
    for part in parts:
        if not dataclasses.is_dataclass(schema):
            return None
        types = typing.get_type_hints(schema)
        if part not in types:
            return unknown(f"{path}.{part}", part, types)
        path, schema = f"{path}.{part}", types[part]
    return None


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].strip()


def unreadable(argument: str, reason: str = "") -> str:
    """The message for an argument that is no readable KEY=VALUE: what is wrong, and how to quote it."""
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument or repr(argument)}: not KEY=VALUE"
    if not re.fullmatch(r"(\+\+?|~)?[A-Za-z_][\w.@:/$-]*", key, re.ASCII):
        return f"{_shown(argument)}: {_shown(key)} is no key; write KEY=VALUE"
    function = re.search(r"Unknown function '(.*)'", reason)
    because = f"{function.group(1)}(...) is no function" if function else "it has a character that must be quoted"
    quotes = [f"{key}={mark}{value}{mark}" for mark in ("'", '"')]
    quoted = next((text for text in quotes if _means(text, value)), None)
    how = f"; as a text it is quoted twice: {_for_the_shell(quoted)}" if quoted else "; close its quotes and brackets"
    return f"{key}: {_shown(value)} cannot be read as a value ({because}){how}"


def _means(argument: str, value: str) -> bool:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return override.value() == value and "\n" not in value


def _for_the_shell(argument: str) -> str:
    return shlex.quote(argument) if set('"$`\\!') & set(argument) else f'"{argument}"'


def _shown(text: str) -> str:
    return repr(text) if not text.isprintable() else text


def _of_yaml(error: yaml.YAMLError) -> str:
    """File, line and problem."""
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}, line {mark.line + 1}" if mark is not None else getattr(error, "name", "a YAML file")
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"{where}: no YAML ({' '.join(str(what).split())})"
