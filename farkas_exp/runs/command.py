"""The KEY=VALUE words of the commands that read runs: status, best, report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.runs.query import filter_keys


def read_words(
    arguments: Sequence[str], own: Mapping[str, Callable[[str], Any]]
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """The values of the command's own keys, each read by its function, and the filters: values by configuration key.

    Raises:
        UserError: an unknown key, a missing or wrong value, or a key given twice.
    """
    keys, values, filters = filter_keys(), {}, {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in own and key not in keys:
            raise unknown(key, key, [*own, *keys])
        if not value:
            raise UserError(f"{key}: a value is missing; write {key}=...")
        if key in values or keys.get(key) in filters:
            raise UserError(f"{key}: given twice")
        if key in own:
            values[key] = own[key](value)
        else:
            filters[keys[key]] = tuple(value.split(","))
    return values, filters


def one_of(key: str, choices: Sequence[str]) -> Callable[[str], str]:
    """A reader of a value that must be among `choices`."""

    def read(value: str) -> str:
        if value not in choices:
            raise unknown(key, value, choices)
        return value

    return read
