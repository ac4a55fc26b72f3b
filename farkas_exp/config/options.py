"""What is declared of an option where it stands: its range, what it needs, and whether it decides a run's numbers.

`option` and `outside` make the fields of the schema. The checks, the identity and the help read what was declared.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from farkas_exp.config.needs import Need
from farkas_exp.machine.errors import UserError

LONGEST_LIST = 1000
LONGEST_TEXT = 1000


@dataclass(frozen=True)
class Option:
    """The declaration of one key; bounds hold for each element of a list, and not for null.

    Attributes:
        decides: whether the value decides the numbers of a run, so that it belongs to its identity.
        needs: what it does nothing without; there only the value `idle` is accepted.
        idle: the value that asks for nothing where a need is not met; its default unless it says otherwise.
        tolerated: where a need is not met, any value is accepted and left out of the identity.
        is_path: whether it is the path of a file or folder.
        increasing: whether the elements of a list must grow.
        shortest: the least number of elements of a list.
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

    def check_range(self, where: str, value: Any) -> None:
        """Refuse a value that is out of the range.

        Raises:
            UserError: the key, the value, and what is right.
        """
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


def option(default: Any = dataclasses.MISSING, *, needs: Need | tuple[Need, ...] = (), **declared: Any) -> Any:
    """A field of the schema that decides a run's numbers, with what `Option` says of it."""
    needs = (needs,) if isinstance(needs, Need) else needs
    return field(default=default, metadata={"option": Option(needs=needs, **declared)})


def outside(default: Any, **declared: Any) -> Any:
    """A field that stays outside of a run's identity: it may change without changing the numbers of a run."""
    return field(default=default, metadata={"option": Option(decides=False, **declared)})


def declared(f: "dataclasses.Field[Any]") -> Option:
    """What was declared of a field."""
    return f.metadata.get("option", _GROUP)


_GROUP = Option()
"""Of a field that is a group of keys: they have their own declarations."""


def require(ok: bool, where: str, value: object, right: str) -> None:
    """Raise a `UserError` that names the key and the value, and says what it must be, unless `ok`."""
    if not ok:
        text = value if isinstance(value, str) and value.startswith("a ") else repr(value)
        text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
        raise UserError(f"{where}: {text} is out of range; it must be {right}")


LONGEST_SHOWN = 200
"""Characters of a value in a message."""


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]", Any]]:
    """Every key of a configuration with its field and its value; the parts of a list of groups one by one."""
    for f in _fields(type(config)):
        value, where = getattr(config, f.name), prefix + f.name
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{where}.")
        else:
            yield where, f, value
            if isinstance(value, tuple):
                for index, item in enumerate(value):
                    if dataclasses.is_dataclass(item):
                        yield from walk(item, f"{where}[{index}].")


@functools.cache
def _fields(schema: type) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(schema)


def check_options(config: Any) -> None:
    """Check every key of `config` against what was declared of it: first the ranges, then the needs.

    Raises:
        UserError: a value that is out of its range, or that does nothing in this configuration.
    """
    keys = list(walk(config))
    for where, f, value in keys:
        if value is not f.default:  # most are, and a sweep checks thousands of configurations
            declared(f).check_range(where, value)
    for where, f, value in keys:
        own = declared(f)
        if own.tolerated or not own.needs:
            continue
        idle = f.default if own.idle is ... else own.idle
        need = None if value == idle else own.unmet(config)
        if need is not None:
            words = need.words if isinstance(need.words, str) else need.words(config)
            raise UserError(f"{where}: {shown(value)} does nothing here; it needs {words} (else {shown(idle)})")


def shown(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{shown(inner)}" for key, inner in value.items()) + "}"
    return f"[{','.join(map(shown, value))}]" if isinstance(value, (list, tuple)) else str(value)
