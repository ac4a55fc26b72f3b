"""Malformed command lines and configs: each ends with status 2 and one line that names the key; nothing is written.

One table by hand, and one made from the schema: for every key a misspelling and values that it cannot have. Where Hydra
has no say, a run is composed without it, and refused at once; the slow tests give all of it to the command.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.config import Config, parse
from farkas_exp.config.store import config_dir, tell_hydra
from farkas_exp.config.texts import keep_texts
from farkas_exp.launch.arguments import checked
from farkas_exp.launch.cli import main
from farkas_exp.launch.execution import execute
from farkas_exp.launch.planned import planned
from farkas_exp.machine.errors import UserError
from tests.composing import of_experiment

BY_HAND = [
    # names of groups and choices
    (["model=resnet19"], "model", "did you mean 'resnet1", "farkasnet34"),
    (["model=foo"], "model", "'foo'", "resnet18"),
    (["model=ResNet18"], "model"),
    (["model="], "model"),
    (["modle=resnet18"], "modle", "did you mean 'model'"),
    (["normalization=bach"], "normalization"),
    (["aggregation=max"], "aggregation"),
    (["lr=0.1"], "lr", "large, medium, small"),
    (["dataset=cifar"], "dataset"),
    (["optimizer=adamm"], "optimizer"),
    (["experiment=tabel1"], "experiment"),
    (["+experiment=demo", "experiment=demo"], "experiment: chosen twice"),
    (["+model=resnet18"], "model: chosen twice; write model=... without a +"),
    (["init=he"], "init"),
    (["activation=gelu"], "activation"),
    (["augmentation=crop"], "augmentation"),
    (["model=resnet18,resnet34"], "model"),
    (["hydra/launcher=slrum"], "hydra/launcher"),
    # Hydra's own keys
    (["hydra.foo=1"], "hydra.foo: unknown 'foo'; choose from: callbacks, "),
    (["+hydra.foo=1"], "hydra.foo: unknown 'foo'; choose from: callbacks, "),
    (["++hydra.sweep.dirr=x"], "hydra.sweep.dirr: unknown 'dirr'; did you mean 'dir'?"),
    (["~hydra.foo"], "hydra.foo: unknown 'foo'"),
    (["~hydra.sweep.dir"], "hydra.sweep.dir: cannot be deleted"),
    (["~hydra.launcher.retries"], "hydra.launcher.retries: cannot be deleted"),
    (["+hydra/foo=1"], "hydra: unknown 'hydra/foo'", "hydra/launcher"),
    (["hydra.sweep=1"], "hydra.sweep: cannot be changed as a whole; single values: hydra.sweep.KEY=VALUE"),
    (["hydra.mode=FOO"], "hydra.mode: Invalid value 'FOO', expected one of [RUN, MULTIRUN]"),
    (["hydra.job.chdir=foo"], "hydra.job.chdir: Value 'foo' is not a valid bool"),
    (["hydra.job.env_set.FOO=1"], "hydra.job.env_set.FOO: not there yet; to add it: +hydra.job.env_set.FOO=1"),
    (["+hydra.callbacks.mine=1"], "hydra.callbacks.mine: expected a callback"),
    (["hydra.launcher.foo=1"], "hydra.launcher.foo: unknown to the chosen hydra/launcher"),
    (["-m", "seed=0,1", "+hydra.launcher.foo=1"], "hydra.launcher.foo: does nothing here"),
    (["-m", "seed=0,1", "+hydra.sweeper.foo=1"], "hydra.sweeper.foo: unknown to the chosen hydra/sweeper"),
    # Hydra's syntax
    (["epochs"], "epochs"),
    (["=3"], "=3"),
    (["epochs=[1,"], "epochs"),
    (["epochs={a:1"], "epochs"),
    (["epochs='1"], "epochs"),
    (["epochs=1 2"], "epochs"),
    (["+epochs=3=4"], "epochs"),
    (["epochs==3"], "epochs"),
    (["~foo"], "foo"),
    (["+foo=1"], "foo: unknown"),
    (["++foo.bar=1"], "foo"),
    (["+model.nme=x"], "model.nme", "did you mean 'name'"),
    (["model.nme=x"], "model.nme", "did you mean 'name'"),
    (["++lr.vlaue=1"], "lr.vlaue"),
    (["foo.bar=1"], "foo"),
    (["seed.x=1"], "seed"),
    (["lr.value.x=1"], "lr.value"),
    (["epochs=1,2"], "epochs: several values are a sweep, with -m; a list is written epochs=[1,2]"),
    (["+epochs=3"], "epochs: there already; set it without a +"),
    (["seed=range(3)"], "seed"),
    (["epochs=${epoch}"], "epoch"),
    (["seed=${oc.env:NOT_SET_ANYWHERE}"], "NOT_SET_ANYWHERE"),
    (["epochs=${nothing:1}"], "nothing"),
    (["lr.value=choice(0.1,0.2)"], "lr.value"),
    (["lr.value=${best:}"], "${best:}: unknown ''"),
    (["optimizer.clip_norm=${best:optimizer.clip_nrom}"], "unknown 'optimizer.clip_nrom'; did you mean"),
    (["lr.value=${beyond:lr.value,lr.value}"], "unknown 'lr.value,lr.value'"),
    (["model={}"], "model"),
    (["lr=[0.1]"], "lr"),
    (["dataset=null"], "dataset"),
    (["epochs=1e3"], "epochs"),
    (["epochs=1_0.5"], "epochs"),
    (["seed=0x"], "seed"),
    (["epochs=yes"], "epochs"),
    # values out of range, alone (whole numbers: tests/config/test_options.py) or together
    (["epochs=0"], "epochs: 0 is out of range"),
    (["batch_size=100000"], "batch_size: 100000 is larger than the training set"),
    (["lr.value=0"], "lr.value"),
    (["lr.value=-1"], "lr.value"),
    (["lr.milestones=[3,2]"], "lr.milestones"),
    (["optimizer.momentum=1"], "optimizer.momentum"),
    (["optimizer.weight_decay=-1"], "optimizer.weight_decay"),
    (["aggregation.margin=-1"], "aggregation.margin"),
    (["dataset.validation=1"], "dataset.validation"),
    (["dataset.train_limit=100000"], "dataset.train_limit"),
    (["augmentation.crop_padding=8"], "augmentation.crop_padding"),
    (["augmentation.cutout=16"], "augmentation.cutout"),
    (["label_smoothing=1"], "label_smoothing"),
    (["checkpoint.every_minutes=-1"], "checkpoint.every_minutes"),
    (["model=fixup34", "normalization=batch"], "normalization", "fixup34"),
    (["model.depth=5"], "model.depth"),
    (["model.blocks=[]"], "model.blocks"),
    (["model.widths=[4]"], "model.widths"),
    (["model.variant=author"], "model.variant", "authors"),
    (["model=farkas_mlp", "model.widths=[3]"], "model.widths"),
    (["normalization.position=between"], "normalization.position"),
    (["init.name=kaimin"], "init.name"),
    (["init=kaiming", "init.gain=0"], "init.gain"),
    (["model.name=resnet"], "model.name"),
    (["optimizer.name=rmsprop"], "optimizer.name"),
    (["normalization.name=bn"], "normalization.name"),
    (["aggregation.name=max"], "aggregation.name"),
    (["dataset.name=mnst"], "dataset.name"),
    (["activation.name=gelu"], "activation.name"),
    (["device=cud"], "device", "did you mean 'cuda'"),
    # sizes that no machine has, or that never end
    (["model=mlp", "model.depth=10000", "model.width=100000"], "model.width"),
    (["model.widths=[100000,100000,100000,100000]"], "model.widths"),
    (["dataset=synthetic", "dataset.train_size=100000000", "dataset.image_size=4096"], "dataset.train_size"),
    ([f"lr.value={10**400}"], "lr.value"),
    (["init.last_depth_exponent=1e9"], "init.last_depth_exponent"),
    (["residual.depth_exponent=1e9"], "residual.depth_exponent"),
    (["model=mlp", "normalization=batch", "batch_size=1"], "batch_size"),
    (["model=resnet18", "model.head_bn=true", "batch_size=1"], "batch_size"),
    # what does nothing
    (["optimizer=adam", "optimizer.momentum=0.5"], "optimizer.momentum"),
    (["optimizer=adam", "optimizer.nesterov=true"], "optimizer.nesterov"),
    (["optimizer.momentum=0", "optimizer.nesterov=true"], "optimizer.nesterov"),
    (["optimizer.weight_decay=0", "optimizer.decay=all"], "optimizer.decay"),
    (["attack.epsilon=0.1"], "attack.epsilon"),
    (["callback.threshold=0.5"], "callback.threshold"),
    (["normalization=batch", "normalization.groups=4"], "normalization.groups"),
    (["normalization.affine=true"], "normalization.affine"),
    (["dropout.anneal=0.5"], "dropout.anneal"),
    (["activation.cutoff=0.5"], "activation.cutoff"),
    (["init.gain=2"], "init.gain"),
    (["init.bias=2"], "init.bias"),
    (["regularizer.rho=0.1"], "regularizer.rho"),
    (["dataset.noise=0.1"], "dataset.noise"),
    (["dataset.label=mine"], "dataset.label"),
    (["augmentation.cutout=0", "augmentation.cutout_fill=zero"], "augmentation.cutout_fill"),
    (["dataset=moons", "augmentation=crop_flip"], "augmentation.flip"),
    (["phases=mini"], "phases.schedule"),
    (["lr.milestones=[]", "lr.gamma=0.5"], "lr.gamma", "lr.milestones"),
    (["lr.milestones=[]", "lr.reference_epochs=100"], "lr.reference_epochs", "lr.milestones"),
    (["regularizer=sep_u", "regularizer.alone=true", "label_smoothing=0.1"], "label_smoothing", "alone=false"),
    (["model=mlp", "regularizer=sep_u", "regularizer.strength=0"], "regularizer.strength", "regularizer=none"),
    (["model=mlp", "regularizer=weight_decay", "regularizer.strength=0"], "regularizer.strength"),
    (["model=mlp", "augmentation.mixup=0.2", "batch_size=1"], "augmentation.mixup", "larger batch"),
    (["model=mlp", "augmentation.cutmix=0.2", "batch_size=1"], "augmentation.cutmix", "larger batch"),
    (["model=mlp", "callback=rank_min", "callback.threshold=0.1", "callback.every_epochs=20"], "callback.every_epochs"),
    (["model=mlp", "model.depth=1", "optimizer=muon"], "optimizer.name", "adamw"),
    (["model=linear_residual", "dropout=constant", "head=linear", "init=pytorch"], "dropout"),
    # files and folders
    (["runs_dir=~nobody_has_this_name/runs"], "runs_dir"),
    (["runs_dir='a\tb'"], "runs_dir"),
    (["dataset=image_folder"], "dataset.root: missing"),
    (["dataset=image_folder", "dataset.root=/nowhere"], "dataset.root", "/nowhere"),
    (["dataset=cifar10", "dataset.download=false", "dataset.root=/nowhere"], "dataset.root"),
    (["dataset.root=x"], "dataset.root"),
    (["runs_dir=/dev/null"], "runs_dir"),
    (["runs_dir=/dev/null/x"], "runs_dir"),
    (["runs_dir=/proc/x"], "runs_dir"),
    (["-m", "runs_dir=/dev/null/x", "seed=0,1"], "runs_dir"),
    (["runs_dir="], "runs_dir"),
    (["--config-name=confg"], "confg"),
    (["--config-dir=/nowhere"], "/nowhere"),
    (["--cfg=jb"], "--cfg"),
    (["--no-such-flag"], "--no-such-flag"),
]


def from_the_schema(schema: Any = Config, prefix: str = "") -> Iterator[tuple[list[str], str]]:
    """For every key: a misspelling, and a value of each kind that its type does not allow."""
    hints = typing.get_type_hints(schema)
    for f in dataclasses.fields(schema):
        hint, key = hints[f.name], prefix + f.name
        if dataclasses.is_dataclass(hint):
            yield from from_the_schema(hint, f"{key}.")
            yield ([f"+{key}.{f.name[::-1]}=1"], f"{key}.{f.name[::-1]}")
            continue
        yield ([f"{key[:-1]}_=1"], f"{key[:-1]}_")
        for value in wrong_values(hint):
            yield ([f"{key}={value}"], key)


def wrong_values(hint: Any) -> list[str]:
    """Values, as one writes them on a command line, that are none of this type."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return wrong_values(next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    if typing.get_origin(hint) is Literal:
        return ["nonsense", "[1]"]
    if typing.get_origin(hint) is tuple:
        return ["3", "[[1]]"] if typing.get_args(hint)[0] is str else ["3", "[a]", "[1.5]"]
    return {
        int: ["1.5", "many", "true", "[1]"],
        float: ["fast", "nan", "inf", "{a:1}"],
        bool: ["maybe", "2"],
        str: ["[1]"],
    }[hint]


SMALL = ["dataset=digits", "wandb.mode=disabled", "device=cpu", "epochs=1", "runs_dir=runs"]


def without_hydra(arguments: list[str]) -> str | None:
    """What a small run with these arguments is refused with; None where Hydra has a say."""
    try:
        values = of_experiment("")[0].plain_values([*SMALL, *checked(keep_texts(arguments))])
        if values is None:
            return None
        made = planned(values)
        return str(execute(made) if isinstance(made, Config) else made)
    except UserError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException):
        return None


def spoken_to(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status and the standard error of a small run with these arguments on top."""
    given = [argument.split("=")[0].lstrip("+~") for argument in arguments]
    kept = [argument for argument in SMALL if argument.split("=")[0] not in given]
    try:
        status = main([*kept, *arguments])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    captured = capfd.readouterr()
    return status, captured.err


def test_there_are_a_hundred_and_more():
    assert len(BY_HAND) >= 100
    assert len(list(from_the_schema())) >= 100


HAND = pytest.mark.parametrize("mistake", BY_HAND, ids=lambda mistake: " ".join(mistake[0]))


@HAND
def test_a_mistake_by_hand(tmp_path, monkeypatch, capfd, mistake):
    arguments, *words = mistake
    monkeypatch.chdir(tmp_path)
    if said := without_hydra(arguments):
        assert "\n" not in said
        assert all(word in said for word in words), said
        assert not list(tmp_path.rglob("*"))
    else:
        check(tmp_path, arguments, words, capfd)


@pytest.mark.slow
@HAND
def test_a_mistake_by_hand_on_the_command_line(tmp_path, monkeypatch, capfd, mistake):
    arguments, *words = mistake
    monkeypatch.chdir(tmp_path)
    check(tmp_path, arguments, words, capfd)


def test_a_key_that_hydra_does_not_have_in_a_file_is_one_line_with_the_file(tmp_path, capfd):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nhydra:\n  sweep:\n    dirr: x\n")
    assert main([f"--config-dir={tmp_path}", *SMALL, "experiment=mine"]) == 2
    expected = r"error: hydra.sweep.dirr: unknown 'dirr'; did you mean 'dir'\? .* \(in experiment/mine.yaml\)\n"
    assert re.fullmatch(expected, capfd.readouterr().err)


def test_keys_that_hydra_has_are_composed():
    given = [
        "hydra.sweep.dir=x", "hydra.sweep={subdir: y}", "hydra.run.dir=z", "hydra.job.chdir=true", "hydra.mode=RUN",
        "+hydra.job.env_set.FOO=1", "hydra.verbose=[a]", "hydra/launcher=slurm", "hydra.launcher.partition=gpu",
        "+hydra.launcher.additional_parameters.licenses=x", "~hydra.launcher.additional_parameters.requeue",
        "+hydra.sweeper.params.seed=1", "~hydra.sweeper.params.seed", "hydra/job_logging=default",
        "+hydra.callbacks.mine={_target_: a.B}", "+hydra.callbacks.mine.x=1", "hydra.searchpath=[]",
    ]  # fmt: skip
    tell_hydra()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        made = compose("config", checked(given), return_hydra_config=True).hydra
    assert (made.sweep.dir, made.sweep.subdir, made.job.env_set.FOO) == ("x", "y", "1")
    assert dict(made.launcher.additional_parameters) == {"licenses": "x"}


def test_a_made_mistake_in_a_nested_config():
    for (argument,), key in from_the_schema():
        path, _, text = argument.lstrip("+").partition("=")
        values = {"model": {"name": "resnet18"}, "lr": {"value": 0.1}, "dataset": {"name": "digits"}}
        *groups, last = path.split(".")
        inner: Any = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = yaml.safe_load(text) if text not in ("nan", "inf") else float(text)
        with pytest.raises(UserError, match=f"^{re.escape(key)}(\\[0\\])?: ") as raised:
            parse(values)
        assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("group", [f.name for f in dataclasses.fields(Config)])
def test_a_made_mistake_on_the_command_line(tmp_path, monkeypatch, capfd, group):
    monkeypatch.chdir(tmp_path)
    for arguments, key in from_the_schema():
        if key.split(".")[0].rstrip("_") in (group, group[:-1]):
            check(tmp_path, arguments, [key], capfd)


def check(tmp_path, arguments, words, capfd):
    status, said = spoken_to(arguments, capfd)
    lines = [line for line in said.splitlines() if line.strip()]
    assert status == 2, arguments
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert not list(tmp_path.rglob("*"))
