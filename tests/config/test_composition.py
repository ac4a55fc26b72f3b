"""A configuration that is composed without Hydra is the one that Hydra composes."""

import itertools
import random
from contextlib import suppress
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from farkas_exp.config import composition, parse
from farkas_exp.config.composition import CommandLoader
from farkas_exp.config.help import choices
from farkas_exp.config.identity import identify
from farkas_exp.config.store import config_dir, tell_hydra
from farkas_exp.launch import cli, grid
from tests.composing import made_for, of_experiment, own_arms


@pytest.fixture(scope="module")
def compositions():
    return of_experiment("")[0]


def random_overrides(generator: random.Random) -> list[str]:
    groups = {name: found for name, found in choices(Path(config_dir())).items() if name != "experiment"}
    chosen = [f"{name}={generator.choice(groups[name])}" for name in generator.sample(sorted(groups), 4)]
    single = [
        "seed=7", "lr.value=0.3", "lr.milestones=[1,2]", "dataset.label='a b'", "model.blocks=[1,2]",
        "wandb.name=${lr.value}", "optimizer.momentum=null", "epochs=1e1", "wandb.tags=[a,'1']", "dataset.root=???",
    ]  # fmt: skip
    given = [*chosen, *generator.sample(single, 4)]
    generator.shuffle(given)
    return given


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(s, marks=pytest.mark.slow) for s in range(6, 100))])
def test_random_overrides_compose_to_the_same_run_both_ways(compositions, seed):
    overrides = random_overrides(random.Random(seed))

    def outcome(way):
        try:
            return way(overrides)
        except Exception as error:  # noqa: BLE001 - the same error is as good
            return type(error), str(error)

    plain = compositions.plain_values(overrides)
    assert plain is None or plain == outcome(compositions.by_hydra), overrides


@pytest.mark.parametrize(
    "override", ["+new=1", "~seed", "++seed=3", "lr={value:1}", "nothing=1", "seed.x=1", "runs_dir=${hydra:job.num}"]
)
def test_what_is_not_plain_is_left_to_hydra(compositions, override):
    assert compositions.plain_values(["model=resnet18", override]) is None


def test_all_runs_of_a_sweep_ask_hydra_once(monkeypatch):
    compositions, _ = made_for.__wrapped__("")
    monkeypatch.setattr(compositions, "by_hydra", lambda overrides: pytest.fail("composed by Hydra"))
    lists = []
    monkeypatch.setattr("farkas_exp.config.composition.create_defaults_list", _counting(lists))
    axes = (["resnet18", "resnet34", "farkasnet18"], ["batch", "none", "group"], ["small", "large"], range(10))
    found = [
        (f"model={m}", f"normalization={n}", f"lr={r}", f"seed={s}", "epochs=3")
        for m, n, r, s in itertools.product(*axes)
    ]
    assert len(grid.distinct(found, compositions)) == len(found) == 180
    assert len(lists) == 1
    hashes = {identify(parse(compositions.values(each))).hash for each in found}
    assert len(hashes) == 18


def test_arms_ask_hydra_once_for_each_set_of_groups_that_they_choose(monkeypatch):
    _, master = of_experiment("table1_controls")
    compositions = composition.Compositions(made_for("table1_controls")[0]._loader, master)
    monkeypatch.setattr(compositions, "by_hydra", lambda overrides: pytest.fail("composed by Hydra"))
    lists = []
    monkeypatch.setattr("farkas_exp.config.composition.create_defaults_list", _counting(lists))
    own = own_arms("table1_controls")
    for arm in own:
        compositions.values(["experiment=table1_controls", f"arm={arm}", "model=farkasnet18"])
    assert len(lists) == len({frozenset(arm.choices) for arm in own.values()}) < len(own) / 2


@pytest.mark.parametrize("given", [[], ["normalization=group"], ["init=pytorch", "lr=small"]])
def test_the_command_line_wins_over_the_choices_of_an_arm_and_these_over_the_experiments(given):
    """`authors_bn_large` chooses normalization and rate, `he` the initialization, which the experiment has too."""
    compositions, _ = of_experiment("table1_controls")
    for arm in ("authors_bn_large", "he"):
        words = ["experiment=table1_controls", *given, f"arm={arm}", "model=farkasnet18"]
        assert compositions.plain_values(words) == compositions.by_hydra(words)


def _counting(calls):
    from hydra._internal.defaults_list import create_defaults_list

    def counted(*arguments):
        calls.append(arguments)
        return create_defaults_list(*arguments)

    return counted


@pytest.mark.parametrize(
    ("given", "mode", "added"),
    [
        (["epochs=3", "model=resnet34", "hydra.job.name=mine"], RunMode.RUN, ["hydra.mode=RUN"]),
        (["hydra.mode=RUN", "+new=1"], RunMode.RUN, []),
        (["seed=1,2"], RunMode.RUN, ["hydra.mode=RUN"]),  # refused, without -m
        (["model=???"], RunMode.RUN, ["hydra.mode=RUN"]),
        (["lr=none_such"], RunMode.RUN, ["hydra.mode=RUN"]),
        (["experiment=demo", "lr.value=0.1,0.2"], RunMode.MULTIRUN, []),
        (["hydra.mode=RUN", "model=resnet18,resnet34", "seed=range(3)"], RunMode.MULTIRUN, ["hydra.mode=MULTIRUN"]),
        (["hydra.job.num=1,2"], RunMode.MULTIRUN, ["hydra.mode=MULTIRUN"]),  # refused, of Hydra's own
    ],
)
def test_a_commands_second_composition_is_what_hydra_makes_of_it_anew(given, mode, added):
    tell_hydra()

    def second(kind):
        loader, overrides = kind(create_config_search_path(config_dir())), [*given]
        with suppress(Exception):
            loader.load_configuration("config", overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)
        overrides.extend(added)
        try:
            return OmegaConf.to_container(loader.load_configuration("config", overrides, mode))
        except Exception as error:  # noqa: BLE001 - the same error is as good
            return type(error), str(error)

    assert second(CommandLoader) == second(ConfigLoaderImpl)


def test_a_command_is_composed_once(monkeypatch):
    compose, composed = ConfigLoaderImpl._load_configuration_impl, []
    monkeypatch.setattr(cli, "Task", lambda outcomes: lambda values: None)
    monkeypatch.setattr(
        ConfigLoaderImpl, "_load_configuration_impl",
        lambda *given, **options: composed.append([*options["overrides"]]) or compose(*given, **options),
    )  # fmt: skip
    assert cli.main(["model=mlp", "seed=3"]) == 0
    assert composed == [["model=mlp", "seed=3"]]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("${epochs}", {"epochs"}),
        ("a ${lr.value} and ${in_memory:4}", {"lr", "dataset"}),
        ("${best:lr.value}", None),
        ("${oc.env:HOME}", None),
        ("${in_memory:${epochs}}", None),
        ("${..epochs}", None),
    ],
)
def test_what_an_interpolation_looks_at(text, read):
    assert composition._read_by(["plain", text]) == read
