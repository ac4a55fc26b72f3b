"""Texts as they were written: `wandb.entity=${oc.env:TEAM}` is recorded as that, not as the value of TEAM.

The environment may hold secrets, or mean nothing elsewhere. So texts outside of a run's identity are recorded as
written; what decides a run's numbers is recorded by its value.
"""

import dataclasses
import functools
from typing import Any

from farkas_exp.config.options import declared


class Written(str):
    """A text that was written with an interpolation.

    Attributes:
        source: the text as written, with `${...}`.
    """

    source: str

    def __new__(cls, text: str, source: str = "") -> "Written":
        """Make the text that was written as `source`."""
        made = super().__new__(cls, text)
        made.source = source
        return made


def with_sources(resolved: Any, written: Any) -> Any:
    """The resolved values of a composition, with texts that know how they were written.

    `written` are the same values unresolved, where a `${...}` may stand for a whole mapping or list.
    """
    if isinstance(resolved, dict):
        return {k: with_sources(v, written[k] if isinstance(written, dict) else written) for k, v in resolved.items()}
    if isinstance(resolved, list):
        sources = written if isinstance(written, list) else [written] * len(resolved)
        return [with_sources(value, source) for value, source in zip(resolved, sources, strict=True)]
    if isinstance(resolved, str) and isinstance(written, str) and "${" in written:
        return Written(resolved, written)
    return resolved


def to_dict(config: Any, *, as_written: bool = False) -> dict[str, Any]:
    """The nested plain form of a config, lists for tuples; `as_written`: texts outside of the identity as written."""

    def plain(value: Any, decides: bool) -> Any:
        if dataclasses.is_dataclass(value):
            return to_dict(value, as_written=as_written)
        if isinstance(value, tuple):
            return [plain(item, decides) for item in value]
        if as_written and isinstance(value, Written):
            return str(value) if decides else value.source
        return value

    return {f.name: plain(getattr(config, f.name), declared(f).decides) for f in dataclasses.fields(config)}


recorded = functools.partial(to_dict, as_written=True)
"""The nested values of a config for the record and W&B."""
