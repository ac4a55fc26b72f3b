"""The words of the commands that read runs."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from farkas_exp.config.folders import home
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.runs.query import filter_keys


def read_words(
    arguments: Sequence[str], own: Mapping[str, Callable[[str], Any]]
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """The values of the command's own keys, each read by its function, and the filters: values by configuration key."""
    keys, values, filters = filter_keys(), {}, {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in own and key not in keys:
            raise unknown(key, key, [*own, *keys])
        _check_word(key, value, again=key in values or keys.get(key) in filters)
        if key in own:
            values[key] = own[key](value)
        else:
            filters[keys[key]] = tuple(dict.fromkeys([*value.split(","), value]))  # a list, or a label, has commas
    return values, filters


def paths_and_words(arguments: Sequence[str], known: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """The paths among the arguments, and the values of the KEY=VALUE words by key.

    A key that ends in `.` stands for all that begin with it; a path may have an equals sign, too.
    """
    paths: list[str] = []
    words: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_known = key in known or (f"{key.partition('.')[0]}." in known and not key.endswith("."))
        if not equals or (not is_known and os.path.lexists(home(argument, "path"))):
            paths.append(argument)
            continue
        if not is_known:
            raise unknown(key, key, [f"{each}KEY" if each.endswith(".") else each for each in known])
        _check_word(key, value, again=key in words)
        words[key] = value
    return paths, words


def _check_word(key: str, value: str, again: bool) -> None:
    if not value:
        raise UserError(f"{key}: a value is missing; write {key}=...")
    if again:
        raise UserError(f"{key}: given twice")


def folder_at(key: str) -> Callable[[str], Path]:
    """A reader of a path, in which a leading ~ means home."""
    return lambda value: Path(home(value, key))


def one_of(key: str, choices: Sequence[str]) -> Callable[[str], str]:
    """A reader of a value that must be among `choices`."""

    def read(value: str) -> str:
        if value not in choices:
            raise unknown(key, value, choices)
        return value

    return read
