"""The declaration of an option: its range, what it needs, and whether it decides a run's numbers.

`option` and `outside` make the fields of the schema; the checks and the identity read their declarations.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from farkas_exp.config.needs import Need, own_option
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import Registry

LONGEST_LIST = 1000
LONGEST_TEXT = 1000


@dataclass(frozen=True)
class Option:
    """The declaration of one key; bounds hold for each element of a list, and not for null.

    Attributes:
        decides: whether the value decides the numbers of a run and so belongs to its identity.
        needs: without these it has no effect; while one is unmet, only the value `idle` is accepted.
        idle: by default, the option's default.
        tolerated: whether any value is accepted while a need is unmet, and is left out of the identity.
        is_path: whether it is the path of a file or folder.
        increasing: whether the elements of a list must increase.
        shortest: the least length of a list.
        within: another key of its group, whose value its absolute value must not exceed.
    """

    decides: bool = True
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    needs: tuple[Need, ...] = ()
    idle: Any = ...
    tolerated: bool = False
    is_path: bool = False
    increasing: bool = False
    shortest: int = 0
    within: str = ""

    def check_range(self, where: str, value: Any) -> None:
        """Check a value against the range."""
        if isinstance(value, tuple):
            for index, item in enumerate(value):
                self.check_range(f"{where}[{index}]", item)
            require(len(value) <= LONGEST_LIST, where, f"a list of {len(value)}", f"at most {LONGEST_LIST} long")
            require(len(value) >= self.shortest, where, list(value), f"a list of at least {self.shortest}")
            if self.increasing:
                require(list(value) == sorted(set(value)), where, list(value), "strictly increasing")
        elif isinstance(value, str):
            require(value.isprintable(), where, value, "a text without control characters")
            require(len(value) <= LONGEST_TEXT, where, f"a text of {len(value)}", f"at most {LONGEST_TEXT} long")
            require(not self.is_path or bool(value.strip()), where, value, "the name of a file or folder")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            require(self.at_least is None or value >= self.at_least, where, value, f"at least {self.at_least}")
            positive = "positive" if self.above == 0 else f"greater than {self.above}"
            require(self.above is None or value > self.above, where, value, positive)
            require(self.at_most is None or value <= self.at_most, where, value, f"at most {self.at_most}")
            require(self.below is None or value < self.below, where, value, f"less than {self.below}")

    def unmet(self, config: Any) -> Need | None:
        """The first need that `config` does not meet."""
        return next((need for need in self.needs if not need.is_met(config)), None)


def option(
    default: Any = dataclasses.MISSING, *, of: Registry[Any] | None = None, needs: Need | tuple[Need, ...] = (),
    **declared: Any,
) -> Any:  # fmt: skip
    """A field of the schema that decides a run's numbers, declared as an `Option`.

    One `of` the choices in a registry also needs a choice that lists it among its own options.
    """
    needs = (needs,) if isinstance(needs, Need) else needs
    return field(default=default, metadata={"option": Option(needs=needs, **declared), "of": of})


def outside(default: Any, **declared: Any) -> Any:
    """A field outside of a run's identity: it does not change the numbers of a run."""
    return option(default, decides=False, **declared)


@functools.cache
def declared(f: "dataclasses.Field[Any]") -> Option:
    """The declaration of a field."""
    own, registry = f.metadata.get("option", _GROUP), f.metadata.get("of")
    return own if registry is None else dataclasses.replace(own, needs=(own_option(registry, f.name), *own.needs))


_GROUP = Option()
"""The declaration of a group of keys, each of which has its own."""


def require(ok: bool, where: str, value: object, right: str) -> None:
    """Raise a `UserError` with the key, the value and what it must be, unless `ok`."""
    if not ok:
        text = value if isinstance(value, str) and value.startswith("a ") else repr(value)
        text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
        raise UserError(f"{where}: {text} is out of range; it must be {right}")


LONGEST_SHOWN = 200
"""The most characters of a value in a message."""


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]", Any]]:
    """Every key of a configuration with its field and value, also inside of lists of groups."""
    for f in fields_of(type(config)).values():
        value, where = getattr(config, f.name), prefix + f.name
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{where}.")
        else:
            yield where, f, value
            if isinstance(value, tuple):
                for index, item in enumerate(value):
                    if dataclasses.is_dataclass(item):
                        yield from walk(item, f"{where}[{index}].")


def keys_of(schema: Any, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Every dotted key of a schema with its field, also those inside of groups."""
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            yield from keys_of(f.type, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


@functools.cache
def fields_of(schema: type) -> Mapping[str, "dataclasses.Field[Any]"]:
    """The fields of a group, by name."""
    return {f.name: f for f in dataclasses.fields(schema)}


def check_keys(keys: Sequence[tuple[str, "dataclasses.Field[Any]", Any]], config: Any) -> None:
    """Check keys (`walk`), first the ranges, then the needs; `config` has the groups that they need."""
    for where, f, value in keys:
        if value is not f.default:  # saves time: a sweep checks thousands of configurations
            declared(f).check_range(where, value)
            if declared(f).within:
                limit = attrgetter(f"{where.rpartition('.')[0]}.{declared(f).within}")(config)
                require(abs(value) <= limit, where, value, f"between -{limit:g} and {limit:g}")
    for where, f, value in keys:
        own = declared(f)
        if own.tolerated or not own.needs:
            continue
        idle = f.default if own.idle is ... else own.idle
        need = None if value == idle else own.unmet(config)
        if need is not None:
            raise without_effect(where, value, need.words_for(config), idle)


def without_effect(where: str, value: Any, words: str, idle: Any) -> UserError:
    """The error for a value that does nothing without what the `words` name; only `idle` is accepted then."""
    return UserError(f"{where}: {shown(value)} does nothing here; it needs {words} (else {shown(idle)})")


def shown(value: Any) -> str:
    """A value as written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{shown(inner)}" for key, inner in value.items()) + "}"
    return f"[{','.join(map(shown, value))}]" if isinstance(value, (list, tuple)) else str(value)
