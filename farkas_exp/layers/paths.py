"""The switch between fused code paths and the plain formulas that they are equal to."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FUSED: ContextVar[bool] = ContextVar("farkas_exp_fused", default=True)


@contextmanager
def plain_path() -> Iterator[None]:
    """Use the plain formulas only, for the calls inside of the `with` block (in this thread or task).

    On a plain path every layer and every activation is called as a module, so that forward hooks see it.
    """
    token = _FUSED.set(False)
    try:
        yield
    finally:
        _FUSED.reset(token)


def fused_allowed() -> bool:
    """Whether fused code paths may be used here."""
    return _FUSED.get()
