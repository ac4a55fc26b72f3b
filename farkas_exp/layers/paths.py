"""The switch between fused code paths and the plain formulas that they equal."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FUSED: ContextVar[bool] = ContextVar("farkas_exp_fused", default=True)


@contextmanager
def plain_path() -> Iterator[None]:
    """Use only the plain formulas within the block (in this thread or task).

    Then every layer and activation is called as a module, so that forward hooks see it.
    """
    token = _FUSED.set(False)
    try:
        yield
    finally:
        _FUSED.reset(token)


def fused_allowed() -> bool:
    """Whether fused code paths may be used."""
    return _FUSED.get()
