"""Errors by whose mistake they are."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in a command line, a config or an input file.

    The message is one line: what is wrong, where, and what would be right. The command line prints it without a
    traceback and exits with status 2.
    """


class Interrupted(Exception):  # noqa: N818 - not an error: the run goes on where it stopped
    """The run was asked to stop and has written its checkpoint; the same command continues it."""


def message_of(error: BaseException, longest: int | None = None) -> str:
    """The message of an error without line breaks, at most so long; its type if it has none."""
    return _text(error, longest) or type(error).__name__


def in_one_line(error: BaseException, longest: int | None = None) -> str:
    """The type of an error, and its message without line breaks, at most so long."""
    return f"{type(error).__name__}: {_text(error, longest)}"


def _text(error: BaseException, longest: int | None) -> str:
    return " ".join(str(error).split())[:longest]


def unknown(where: str, got: object, choices: Iterable[str]) -> UserError:
    """The error for a name that is none of `choices`, with the nearest valid name and all of them."""
    names = sorted(choices)
    near = get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UserError(f"{where}: unknown {got!r}{hint} choose from: {', '.join(names)}")
