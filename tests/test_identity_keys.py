"""Key by key: what is outside of the identity is on a list and moves no weight, and everything else moves the hash."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from configs import values

from farkas_exp import sweep
from farkas_exp.config import Config, PhaseConfig, parse
from farkas_exp.identity import identify
from farkas_exp.runs import open_run

OUTSIDE: dict[str, Any] = {
    "arm": "an arm",
    "channels_last": False,
    "checkpoint.every_epochs": 2,
    "checkpoint.every_minutes": 0.0,
    "compile": "none",
    "dataset.cache": None,
    "dataset.download": None,
    "dataset.root": None,
    "dataset.workers": None,
    "device": "auto",
    "diagnostics.epochs": [0, 1],
    "diagnostics.images": 16,
    "diagnostics.lanczos_steps": 5,
    "diagnostics.measures": ["grad_norm", "hessian", "rank"],
    "diagnostics.ntk_images": 3,
    "experiment": "an experiment",
    "fail_fast": True,
    "only_for": None,
    "packing": 1,
    "progress": "plain",
    "retry_failed": True,
    "runs_dir": None,
    "seed": None,
    "wandb.entity": "someone",
    "wandb.group": "a group",
    "wandb.mode": "disabled",
    "wandb.name": "a name",
    "wandb.project": "a project",
    "wandb.tags": ["a tag"],
}
"""Every key outside of the identity, with another value to train with; None where a small run cannot try it: the seed,
and what belongs to files, to a sweep, or to nothing but names."""

BASE = {"model": {"name": "mlp", "depth": 1, "width": 4, "blocks": None, "widths": None}, "epochs": 1}
SWITCHED_ON = {"diagnostics.images", "diagnostics.lanczos_steps", "diagnostics.measures", "diagnostics.ntk_images"}


def leaves(schema: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every key of the schema: its path, its field and its type; a group outside is outside with all its keys."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[field.name]):
            for path, inner, hint in leaves(hints[field.name], f"{prefix}{field.name}."):
                yield path, (field if field.metadata.get("identity") is False else inner), hint
        else:
            yield prefix + field.name, field, hints[field.name]


KEYS = {path: (field, hint) for path, field, hint in leaves()}


def another(value: Any, hint: Any) -> Any:
    """A value of the type that is not `value`."""
    kinds = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        return (
            (PhaseConfig(1, 8, 8, 0.1, 0.1),)
            if kinds[0] is PhaseConfig
            else (*value, kinds[0](3))
            if value
            else (kinds[0](3),)
        )
    literal = next((kind for kind in (hint, *kinds) if typing.get_origin(kind) is typing.Literal), None)
    if literal is not None:
        return next(choice for choice in typing.get_args(literal) if choice != value)
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return (3, 3)
    kind = next(kind for kind in kinds if kind is not type(None))
    return not value if kind is bool else (value or "") + "x" if kind is str else kind((value or 0) + 1)


def changed(config: Any, path: str, hint: Any) -> Any:
    """The configuration with another value at one key, whether that makes sense or not."""
    name, _, rest = path.partition(".")
    value = getattr(config, name)
    return dataclasses.replace(config, **{name: changed(value, rest, hint) if rest else another(value, hint)})


def test_the_list_of_keys_outside_is_complete():
    """A key put outside by mistake makes two experiments one: it must be put on this list, too."""
    assert {path for path, (field, _) in KEYS.items() if field.metadata.get("identity") is False} == set(OUTSIDE)


@pytest.mark.parametrize("path", [path for path in KEYS if path != "model.name"])
def test_a_key_moves_the_hash_unless_it_is_outside(path):
    made = parse(values())
    assert (identify(made) == identify(changed(made, path, KEYS[path][1]))) == (path in OUTSIDE)


def trained(folder, path: str | None = None) -> dict[str, torch.Tensor]:
    """The weights of a small run, with the other value at one key outside."""
    made = values(folder, **BASE)
    if path in SWITCHED_ON:
        made["diagnostics"] = {"epochs": [0, 1], "images": 8, "measures": ["grad_norm", "hessian"]}
    if path is not None:
        *groups, last = path.split(".")
        group = made
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = OUTSIDE[path]
    config = parse(made)
    assert sweep.execute(config).status == "finished"
    return torch.load(open_run(config).checkpoint, weights_only=True)["model"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, torch.Tensor]:
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("path", [path for path, value in OUTSIDE.items() if value is not None])
def test_a_key_outside_leaves_the_trained_weights_alone(path, plain, tmp_path):
    found = trained(tmp_path, path)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key]) for key in plain)
