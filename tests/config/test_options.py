"""Every key of the schema: it changes the numbers and the identity of a run, or it is refused, or it is outside.

A new key has to be entered in `CHANGES`; the tests then hold it to what its field declares.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from farkas_exp import runs
from farkas_exp.config import Config, declared, parse
from farkas_exp.config.extensions import every_extra
from farkas_exp.config.identity import identify
from farkas_exp.config.options import Option, keys_of, shown, walk
from farkas_exp.launch import execution
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import open_run
from tests.stopping import numbers

BASE: dict[str, Any] = {
    "model.name": "farkasnet18", "model.blocks": [1, 1], "model.widths": [4, 4], "normalization.name": "none",
    "lr.value": 0.01, "lr.milestones": [100], "lr.reference_epochs": 200, "dataset.name": "digits",
    "dataset.train_limit": 60, "augmentation.crop_padding": 1, "augmentation.flip": True, "augmentation.cutout": 2,
    "epochs": 2, "batch_size": 20, "failure.epochs": 0, "device": "cpu", "progress": "none", "wandb.mode": "disabled",
}  # fmt: skip
"""Four steps, with a milestone between the epochs."""

MLP = {"model.name": "mlp", "model.blocks": None, "model.widths": None, "model.depth": 2, "model.width": 8}
CONV = MLP | {"model.name": "rect_conv"}
DENSE = {"model.name": "densenet40", "model.blocks": [1, 1], "model.widths": None, "model.width": 4}
VIT = MLP | {"model.name": "vit"}
NORM = {"normalization.name": "batch"}
MOONS = MLP | {
    "dataset.name": "moons", "dataset.train_limit": None, "augmentation.crop_padding": 0, "augmentation.cutout": 0,
    "augmentation.flip": False,
}  # fmt: skip
SYNTHETIC = {
    "dataset.name": "synthetic", "dataset.train_limit": None, "dataset.train_size": 40, "dataset.test_size": 10,
    "dataset.image_size": 8,
}  # fmt: skip
FOLDER = {
    "dataset.name": "streamed_folder", "dataset.root": "one/pictures", "dataset.train_limit": None,
    "augmentation.crop_padding": 0, "augmentation.cutout": 0, "dataset.image_size": 8, "dataset.workers": 0,
    "batch_size": 8,
}  # fmt: skip
PHASE = {"until": 2, "image_size": 8, "batch_size": 8, "lr_from": 0.1, "lr_to": 0.01}
PHASED = FOLDER | {
    "dataset.image_size": None, "phases.name": "own", "phases.schedule": [PHASE], "batch_size": 128,
    "lr.milestones": [60, 120, 160],
}  # fmt: skip
SEPARATION = MLP | {"regularizer.name": "sep_up", "regularizer.strength": 0.1}

CHANGES: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "model.name": ("resnet18", {}),
    "model.variant": ("authors", {"model.blocks": None, "model.widths": None}),
    "model.head_bn": (True, {}),
    "model.blocks": ([2, 1], {}),
    "model.widths": ([4, 6], {}),
    "model.depth": (3, MLP),
    "model.width": (6, MLP),
    "model.residual": (True, MLP),
    "model.pool": (True, CONV),
    "model.heads": (2, VIT),
    "model.patch": (2, VIT),
    "model.expansion": (2, VIT),
    "model.downsample": (
        "pool", {"model.name": "resnet50_imagenet", "model.widths": [8, 8], "dataset.image_size": 32},
    ),
    "model.bias": (True, {"model.name": "allconv_residual"}),
    "head.name": ("random_projection", {}),
    "residual.alpha": (0.5, {}),
    "residual.beta": (0.5, {}),
    "residual.depth_exponent": (-0.5, {}),
    "residual.multiplier": (0.5, {}),
    "residual.skip": (False, {}),
    "normalization.name": ("layer", {}),
    "normalization.position": ("before", NORM),
    "normalization.affine": (True, NORM),
    "normalization.groups": (2, {}),
    "normalization.alpha": (1.0, {"normalization.name": "dyt"}),
    "weight.name": ("scaled", {}),
    "aggregation.name": ("mean", {}),
    "aggregation.margin": (0.1, {}),
    "aggregation.append": (False, {}),
    "aggregation.learn_lambda": (True, {}),
    "activation.name": ("elu", {}),
    "activation.cutoff": (0.5, {}),
    "activation.target": (0.3, MLP | {"activation.name": "tailored"}),
    "init.name": ("kaiming", {}),
    "init.gain": (0.5, {}),
    "init.last_scale": (0.5, {}),
    "init.last_depth_exponent": (-0.5, {}),
    "init.classifier_std": (0.5, {}),
    "init.bias": (0.5, {"init.bias": 1.0}),
    "lr.value": (0.05, {}),
    "lr.milestones": ([], {}),
    "lr.gamma": (0.5, {}),
    "lr.reference_epochs": (None, {}),
    "lr.schedule": ("cosine", {"lr.milestones": [60, 120, 160]}),
    "lr.warmup": (1.0, {}),
    "optimizer.name": ("adam", {"optimizer.momentum": 0.9}),
    "optimizer.momentum": (0.5, {}),
    "optimizer.nesterov": (True, {}),
    "optimizer.weight_decay": (0.1, {}),
    "optimizer.decay": ("all", {"optimizer.weight_decay": 0.1}),
    "optimizer.scalars": ("common", {"model.name": "fixup34"}),
    "optimizer.clip_norm": (0.1, {}),
    "optimizer.clip_units": (0.01, {}),
    "optimizer.ema": (0.9, {}),
    "augmentation.mixup": (0.5, {}),
    "augmentation.cutmix": (0.5, {}),
    "augmentation.crop_padding": (2, {}),
    "augmentation.flip": (False, {}),
    "augmentation.cutout": (4, {}),
    "augmentation.cutout_fill": ("zero", {}),
    "augmentation.cutout_variant": ("authors", {}),
    "augmentation.min_scale": (0.5, FOLDER),
    "dataset.name": ("moons", {**MOONS, "dataset.name": "digits"}),
    "dataset.label": ("mine", FOLDER),
    "dataset.image_size": (12, {}),
    "dataset.normalize": (True, {}),
    "dataset.train_limit": (40, {}),
    "dataset.validation": (0.4, {}),
    "dataset.num_classes": (3, SYNTHETIC),
    "dataset.train_size": (60, SYNTHETIC),
    "dataset.test_size": (20, SYNTHETIC),
    "dataset.noise": (0.3, MOONS),
    "dataset.stratify": (True, MOONS),
    "dataset.draft": (False, FOLDER),
    "dataset.copies": ([160], FOLDER),
    "phases.name": ("other", PHASED),
    "phases.schedule": ([PHASE | {"image_size": 12}], PHASED),
    "phases.batch_scale": (0.5, PHASED),
    "regularizer.name": ("sep_up", {"regularizer.name": "norm_bias", "regularizer.strength": 0.1}),
    "regularizer.strength": (0.5, SEPARATION),
    "regularizer.alone": (True, SEPARATION),
    "regularizer.coefficient": (0.9, SEPARATION),
    "regularizer.reduction": ("balanced", SEPARATION),
    "regularizer.rho": (0.1, SEPARATION),
    "regularizer.conv_point": ("position", {"regularizer.name": "sep_up", "regularizer.strength": 0.1}),
    "regularizer.include_output": (True, SEPARATION),
    "regularizer.norm_squared": (50.0, {"regularizer.strength": 0.1}),
    "dropout.rate": (0.5, {}),
    "dropout.anneal": (0.0, {"dropout.rate": 0.1}),
    "attack.name": ("pgd", {}),
    "attack.steps": (2, {}),
    "attack.step_size": (0.1, {"attack.steps": 2}),
    "attack.epsilon": (0.3, {"attack.steps": 2}),
    "attack.random_start": (False, {"attack.steps": 2}),
    "callback.name": ("rank_max", {"callback.name": "rank_min", "callback.threshold": 0.3}),
    "callback.threshold": (0.6, {"callback.threshold": 0.3}),
    "callback.last_epochs": (1, {"callback.threshold": 0.3}),
    "callback.lr": (0.5, {"callback.threshold": 0.3, "callback.last_epochs": 1}),
    "callback.healing_epochs": (1, {"callback.threshold": 0.3}),
    "callback.every_epochs": (2, {"callback.threshold": 0.3, "callback.last_epochs": 2}),
    "failure.epochs": (9, {}),
    "epochs": (3, {}),
    "batch_size": (10, {}),
    "precision": ("bf16", {}),
    "label_smoothing": (0.1, {}),
    "dataset.root": ("two/pictures", FOLDER),
    "dataset.download": (False, {}),
    "dataset.cache": (False, {}),
    "dataset.workers": (1, FOLDER),
    "debug": ("fast", {}),
    "seed": (1, {}),
    "experiment": ("table1", {}),
    "arm": ("mine", {}),
    "plugins": (["string"], {}),
    "device": ("auto", {}),
    "compile": ("none", {}),
    "packing": (2, {}),
    "channels_last": (False, {}),
    "runs_dir": ("elsewhere", {}),
    "retry_failed": (True, {}),
    "fail_fast": (True, {}),
    "progress": ("plain", {}),
    "diagnostics.epochs": ([0, 1], {}),
    "diagnostics.images": (7, {"diagnostics.epochs": [1]}),
    "diagnostics.measures": (["param_norm"], {"diagnostics.epochs": [1]}),
    "diagnostics.lanczos_steps": (5, {}),
    "diagnostics.ntk_images": (5, {}),
    "diagnostics.train_eval": (True, {}),
    "checkpoint.every_epochs": (0, {}),
    "checkpoint.every_minutes": (0.0, {}),
    "checkpoint.keep": ("weights", {}),
    "wandb.mode": ("offline", {}),
    "wandb.project": ("mine", {}),
    "wandb.entity": ("me", {}),
    "wandb.group": ("mine", {}),
    "wandb.name": ("mine", {}),
    "wandb.tags": (["mine"], {}),
    "tracking": (["csv"], {}),
}  # fmt: skip
"""For every key another value than in `BASE`, and what it has to be put beside to act, if not in `BASE`."""

WITHOUT_EFFECT = {
    "failure.epochs": "decides when a run is given up",
    "dataset.label": "names the data",
    "dataset.draft": "for JPEGs larger than needed",
    "dataset.copies": "needs copies of the folder",
    "dataset.test_size": "images that are not trained on",
    "phases.name": "names the schedule",
    "model.variant": "needs the whole network, seconds of training",
    "seed": "a repetition of the same experiment",
    "wandb.mode": "starts a service",
    "checkpoint.keep": "leaves no optimizer to compare",
    "optimizer.ema": "an average of the weights, beside them",
}
"""Keys of which the weights say nothing here."""


BROUGHT = every_extra()
LEAVES = dict(keys_of(Config)) | {key: extra.field for key, extra in BROUGHT.items()}
"""Every key of the schema, and of the choices that bring one, by its dotted name."""
INSIDE = [key for key, f in LEAVES.items() if f.metadata["option"].decides]
OUTSIDE = [key for key in LEAVES if key not in INSIDE]


def of(key: str) -> Option:
    """What is declared of a key."""
    return declared(LEAVES[key])


def made(*parts: Mapping[str, Any]) -> Config:
    """The configuration of `BASE` with these settings on top."""
    flat: dict[str, Any] = dict(BASE)
    for part in parts:
        flat.update(part)
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        inner = nested
        *groups, last = key.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return parse(nested)


def owner(key: str) -> dict[str, Any]:
    """The first choice that lists a key among its options, if the key is one of these."""
    registry = LEAVES[key].metadata["of"]
    having = [name for name in registry or () if key.rpartition(".")[2] in registry[name].options]
    return {registry.key: having[0]} if having else {}


def context(key: str) -> dict[str, Any]:
    """What a key has to be put beside to act."""
    return owner(key) | dict(CHANGES[key][1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file are, beside the same small folder of pictures at two places."""
    path = tmp_path_factory.mktemp("options")
    random = np.random.RandomState(0)
    for part, count in (("train", 10), ("test", 3)):
        for name in ("a", "b"):
            for index in range(count):
                image = Image.fromarray(random.randint(0, 256, (16, 16, 3), dtype=np.uint8))
                for place in ("one", "two"):
                    file = path / place / "pictures" / part / name / f"{index}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    image.save(file)
    return path


@cache
def trained(folder: Path, config: Config) -> tuple[Any, Any]:
    """The metrics and the weights after the run of `config`; relative paths are below `folder`."""
    root = None if config.dataset.root is None else str(folder / config.dataset.root)
    runs_dir = folder / f"run_{trained.cache_info().misses}" / config.runs_dir
    dataset = dataclasses.replace(config.dataset, root=root)
    config = dataclasses.replace(config, dataset=dataset, runs_dir=str(runs_dir))
    assert execution.execute(config).status == runs.FINISHED
    rows, weights, _ = numbers(open_run(config))
    return rows, weights


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], *, close: bool = False) -> bool:
    """Whether two networks have the same weights, bit by bit unless `close`."""
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return False
    return all(torch.allclose(first[name], second[name], atol=1e-5 * close, rtol=0) for name in first)


def test_every_key_is_declared_and_tried() -> None:
    assert all("option" in f.metadata for f in LEAVES.values()), "declare a key by option() or outside()"
    assert CHANGES.keys() == LEAVES.keys()
    assert WITHOUT_EFFECT.keys() <= LEAVES.keys()


@pytest.mark.parametrize("key", [key for key in INSIDE if of(key).needs and not of(key).tolerated])
def test_what_does_nothing_is_refused_with_what_it_needs(key: str) -> None:
    for need in of(key).needs:
        others = {} if need is of(key).needs[0] else owner(key)
        lacking = next(config for config in lacking_configs(others) if not need.is_met(config))
        beside = {path: value for path, _, value in walk(lacking) if "[" not in path and path != "phases.schedule"}
        schedule = {"phases.schedule": [dataclasses.asdict(phase) for phase in lacking.phases.schedule]}
        own, default = of(key), LEAVES[key].default
        value = default if CHANGES[key][0] == own.idle else CHANGES[key][0]
        if key == "phases.schedule":  # lr, which comes first, does nothing beside it
            schedule = {"lr.milestones": [60, 120, 160], "batch_size": 128}
        with pytest.raises(UserError) as raised:
            made(beside, schedule, {key: value})
        said = shown(value) if key != "phases.schedule" else "["
        assert str(raised.value).startswith(f"{key}: {said}")
        assert " does nothing here; it needs " in str(raised.value)
        assert "\n" not in str(raised.value)


def lacking_configs(others: Mapping[str, Any]) -> Iterator[Config]:
    """Configurations that lack one thing or another."""
    off = {"augmentation.cutout": 0, "optimizer.weight_decay": 0.0, "optimizer.momentum": 0.0, "model.name": "resnet18"}
    linear = MLP | {"model.name": "linear_residual", "model.width": None}
    fixup = {"model.name": "fixup34"}
    cosine = {"lr.schedule": "cosine", "lr.milestones": [60, 120, 160]}
    others_off = (
        {"optimizer.name": "adam"}, {"augmentation.cutout_fill": "zero"}, {"lr.milestones": []},
        SEPARATION | {"regularizer.alone": True},
    )  # fmt: skip
    for part in (off, {}, MLP, linear, fixup, cosine, MOONS, FOLDER, PHASED, *others_off):
        for mixed in ({**part, **others}, {**others, **part}):
            try:
                lacking = made(mixed)
            except UserError:
                continue
            yield lacking


@pytest.mark.parametrize("key", INSIDE)
def test_what_decides_the_numbers_moves_the_identity_and_the_weights(key: str, folder: Path) -> None:
    without = made(context(key))
    changed = made(context(key), {key: CHANGES[key][0]})
    assert identify(without).hash != identify(changed).hash
    if key not in WITHOUT_EFFECT:
        assert not same(trained(folder, without)[1], trained(folder, changed)[1])


@pytest.mark.parametrize("key", OUTSIDE)
def test_what_is_outside_leaves_the_identity_and_the_weights_alone(key: str, folder: Path) -> None:
    without = made(context(key))
    changed = made(context(key), {key: CHANGES[key][0]})
    assert changed != without
    assert identify(without).hash == identify(changed).hash
    if key not in WITHOUT_EFFECT:
        first, second = trained(folder, without), trained(folder, changed)
        assert same(first[1], second[1], close=key == "channels_last")
        added = [{k: v for k, v in row.items() if not k.startswith("train_eval_")} for row in second[0]]
        assert (added != second[0]) == (key == "diagnostics.train_eval")
        assert key == "channels_last" or first[0] == added


def test_a_tolerated_option_is_left_out_where_it_does_nothing() -> None:
    tolerated = [key for key in INSIDE if of(key).tolerated]
    assert tolerated == ["aggregation.name", "aggregation.margin", "aggregation.learn_lambda"]
    plain = {"model.name": "resnet18"}
    for key in tolerated:
        assert identify(made(plain, {key: CHANGES[key][0]})) == identify(made(plain))


@pytest.mark.parametrize("key", [key for key, f in LEAVES.items() if not key.endswith("name")])
def test_a_number_has_a_range_and_every_value_out_of_it_is_one_line(key: str) -> None:
    hint, own = str(BROUGHT[key].type if key in BROUGHT else LEAVES[key].type), of(key)
    if "int" not in hint:
        return
    assert own.at_least is not None, "a whole number has a least value"
    assert own.at_most is not None, "and a largest one, beyond which it never ends or exhausts the memory"
    for value, right in ((own.at_least - 1, "at least"), (10**12, "at most"), (10**400, "at most")):
        given = [value] if "tuple" in hint else value
        where = f"{key}[0]" if "tuple" in hint else key
        with pytest.raises(UserError) as raised:
            made(context(key), {key: given})
        assert str(raised.value).startswith(f"{where}: {value!r}"[:200])
        assert f" is out of range; it must be {right} " in str(raised.value)
        assert len(str(raised.value)) < 400
