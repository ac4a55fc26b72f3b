"""Which runs a report takes together, and what each of them counts with."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.config import option
from farkas_exp.config.needs import SPATIAL
from farkas_exp.config.parsing import schema_defaults
from farkas_exp.registry import NORMALIZATIONS
from farkas_exp.runs import RunDirectory, RunRecord, write_json
from farkas_exp.runs.command import read_words
from farkas_exp.runs.query import (
    budget,
    by_data,
    chance_error,
    common_setting,
    deciding_settings,
    default_settings,
    different_settings,
    effective_settings,
    filter_keys,
    fingerprint,
    has_failed,
    is_plain,
    not_among,
    number,
    outcome,
    ranked_error,
    selected,
    setting,
    settings_in_full,
)
from tests.made_runs import settings

NOWHERE = Path("nowhere")


def test_a_record_without_the_options_of_other_choices_is_that_of_a_composed_configuration():
    recorded, composed = settings(), schema_defaults()
    assert composed["normalization"]["alpha"] == default_settings()["normalization.alpha"] == 0.5
    same = {**recorded, "normalization": {**recorded.get("normalization", {"name": "none"}), "alpha": 0.5}}
    assert {**default_settings(), **deciding_settings(recorded)} == {**default_settings(), **deciding_settings(same)}
    other = {**same, "weight": {"name": "scaled"}}
    assert common_setting(other) == common_setting(same), "arms of one table"


def test_what_a_choice_brings_has_an_effect_where_its_own_needs_are_met(monkeypatch):
    assert list(NORMALIZATIONS), "the package's own are there"
    monkeypatch.setattr(NORMALIZATIONS, "_entries", dict(NORMALIZATIONS._entries))
    NORMALIZATIONS.register("mine", "my:norm", options={"stripes": option(1.0, needs=SPATIAL)})
    for model, norm, acts in (("resnet18", "mine", True), ("mlp", "mine", False), ("resnet18", "batch", False)):
        recorded = settings(model) | {"normalization": {"name": norm, "stripes": 2.0}}
        assert ("normalization.stripes" in effective_settings(recorded)) == acts


def test_a_key_that_a_plugin_brings_later_has_its_default_in_older_records(monkeypatch):
    assert selected([run()], {"normalization.alpha": ("0.5",)}) == [run()]
    monkeypatch.setattr(NORMALIZATIONS, "_entries", dict(NORMALIZATIONS._entries))
    NORMALIZATIONS.register("late", "my:norm", options={"dots": 1.5})
    assert selected([run()], {"normalization.dots": ("1.5",)}) == [run()]


def run(path: Path = NOWHERE, state: str = "finished", seed: int = 0, config: Any = None, **result: Any) -> RunRecord:
    return RunRecord(path, "hash", "slug", seed, settings() if config is None else config, state, 1, 1, result or None)


def on_data(path: Path, **facts: Any) -> RunRecord:
    path.mkdir(exist_ok=True)
    write_json(RunDirectory(path).environment, {"data": facts})
    return run(path, test_error=1.0)


@pytest.mark.parametrize("value", [None, "3", True, [3], math.nan])
def test_what_is_no_number_is_nan(value):
    assert math.isnan(number(value))
    assert math.isnan(outcome(run(), "test_error"))
    assert (number(3), number(-0.5), outcome(run(test_error=7), "test_error")) == (3.0, -0.5, 7.0)


def test_a_setting_is_found_by_its_dotted_key_or_is_none():
    config = {"lr": {"value": 0.1}, "epochs": 3}
    assert [setting(config, key) for key in ("lr.value", "epochs", "lr.gone", "gone.value", "epochs.more")] == [
        0.1, 3, None, None, None,
    ]  # fmt: skip


def test_the_deciding_settings_are_those_of_the_identity_in_the_schemas_order_and_what_a_later_version_adds():
    config = {
        "seed": 1, "later": 3, "epochs": 5, "new": {"part": {"x": 1}}, "wandb": {"mode": "online"}, "runs_dir": "r",
        "dataset": {"name": "digits", "root": "/data"}, "model": {"name": "mlp", "later": 4}, "device": "cpu",
    }  # fmt: skip
    found = deciding_settings(config)
    assert found == {
        "model.name": "mlp", "model.later": 4, "dataset.name": "digits", "epochs": 5, "later": 3, "new.part.x": 1,
    }  # fmt: skip
    assert list(found)[:2] == ["model.name", "model.later"]
    assert list(found)[-2:] == ["later", "new.part.x"]


def same(*configs: dict[str, Any]) -> bool:
    first, *others = map(effective_settings, configs)
    return all(other == first for other in others)


def test_settings_without_an_effect_make_no_difference_and_those_with_one_do():
    plain, farkas = settings("resnet18"), settings("farkasnet18")
    assert same(plain, {**plain, "aggregation": {"name": "mean"}})
    assert not same(farkas, {**farkas, "aggregation": {"name": "mean"}})
    other = {**plain, "model": {"name": "of another version"}}
    assert not same(other, {**other, "aggregation": {"name": "mean"}}), "nobody knows whether it has Farkas layers"
    assert (is_plain("resnet18"), is_plain("farkasnet18"), is_plain("of another version")) == (True, False, False)
    none, batch = {"name": "none", "position": "before"}, {"name": "batch", "position": "before"}
    assert same({**plain, "normalization": {"name": "none"}}, {**plain, "normalization": none})
    assert not same({**plain, "normalization": {"name": "batch"}}, {**plain, "normalization": batch})
    assert not same({**plain, "normalization": none}, {**plain, "normalization": batch})
    assert same(plain, {**plain, "label_smoothing": 0.0}), "an older record does not know the key"
    assert not same(plain, {**plain, "label_smoothing": 0.1})
    rate = {**plain, "lr": {"value": 0.5}}
    phases = {"phases": {"schedule": [{"until": 9}]}}
    assert not same(plain, rate)
    assert same({**plain, **phases}, {**rate, **phases})


def test_only_settings_with_an_effect_are_told_apart():
    sgd = settings("resnet18", optimizer__name="sgd", optimizer__momentum=0.5)
    adam = settings("mlp", optimizer__name="adam", optimizer__momentum=0.3, model__depth=3)
    differ = different_settings({"sgd": sgd, "adam": adam, "third": settings("mlp")})
    assert differ["sgd"]["optimizer.momentum"] == 0.5
    assert differ["adam"]["model.depth"] == 3
    assert not {"optimizer.momentum", "optimizer.nesterov"} & differ["adam"].keys()
    assert not {"model.depth", "model.blocks"} & differ["sgd"].keys()
    assert set(settings_in_full(sgd)) == set(settings_in_full(adam)) == set(default_settings())
    assert settings_in_full(adam)["optimizer.momentum"] == 0.9, "what has no effect is at its default"


def test_an_option_that_a_choice_brings_has_an_effect_with_it_alone():
    scaled = settings("resnet18", normalization__name="none")
    assert "normalization.alpha" in default_settings(), "what this test is about"
    assert "normalization.alpha" not in effective_settings(scaled)
    brought = next(name for name in NORMALIZATIONS if "alpha" in NORMALIZATIONS[name].options)
    assert "normalization.alpha" in effective_settings(settings("resnet18", normalization__name=brought))


def test_the_arms_of_a_table_differ_in_their_network_and_rate_and_share_the_rest():
    config = settings(
        "farkasnet18", lr__value=0.1, lr__gamma=0.5, epochs=7, init__name="kaiming", optimizer__name="sgd"
    )
    assert common_setting(config) == {
        "lr.gamma": 0.5, "dataset.name": "cifar10", "epochs": 7, "optimizer.name": "sgd",
    }  # fmt: skip
    found = budget(config)
    assert (found["epochs"], found["dataset.name"], found["batch_size"]) == (7, "cifar10", 128)
    assert {key.split(".")[0] for key in found} == {
        "dataset", "augmentation", "epochs", "batch_size", "precision", "label_smoothing", "phases",
    }  # fmt: skip


def test_runs_are_chosen_by_any_key_and_a_group_stands_for_its_name_or_value():
    keys = filter_keys()
    assert {key: keys.get(key) for key in ("dataset", "lr", "epochs", "seed", "lr.gamma", "failure", "runs_dir")} == {
        "dataset": "dataset.name", "lr": "lr.value", "epochs": "epochs", "seed": "seed", "lr.gamma": "lr.gamma",
        "failure": None, "runs_dir": None,
    }  # fmt: skip
    assert keys["normalization.alpha"] == "normalization.alpha", "which one normalization brings"


@pytest.mark.parametrize(
    ("key", "text", "fits"),
    [
        ("lr.value", "1e-2", True), ("lr.value", "0.010", True), ("lr.value", "0.1", False), ("lr.value", "x", False),
        ("optimizer.nesterov", "True", True), ("optimizer.nesterov", "1", False), ("dataset.label", "null", True),
        ("dataset.label", "none", False), ("dataset.name", "cifar10", True), ("dataset.name", "cifar1", False),
        ("seed", "3", True), ("seed", "0", False), ("gone", "null", True),
    ],
)  # fmt: skip
def test_a_text_means_the_value_of_the_settings_kind(key, text, fits):
    config = settings(optimizer__nesterov=True, dataset__label=None)
    record = run(seed=3, config=config)
    assert bool(selected([record], {key: (text,)})) is fits
    assert bool(selected([record], {key: ("other", text)})) is fits
    assert selected([record], {key: (text,), "epochs": ("-1",)}) == []


@pytest.mark.parametrize(
    ("key", "values", "fits"),
    [
        ("lr.milestones", ("[1,2]",), True), ("lr.milestones", ("[1, 2]",), True), ("lr.milestones", ("[1,3]",), False),
        ("optimizer.ema", ("0",), True), ("optimizer.ema", ("0.9",), False), ("packing", ("1",), True),
        ("later.key", ("null",), True), ("epochs", ("3",), False),
    ],
)  # fmt: skip
def test_a_list_is_one_value_and_a_key_that_an_older_record_lacks_has_its_default(key, values, fits):
    config = {"lr": {"value": 0.1, "milestones": [1, 2]}, "model": {"name": "resnet18"}}
    assert bool(selected([run(config=config)], {key: values})) is fits


def test_a_name_of_a_setting_chooses_all_its_runs_whoever_trained_them():
    named, by_hand = run(config=settings(arm="He, twice")), run(seed=1)
    other = dataclasses.replace(run(config=settings(lr__value=7.0)), identity="other")
    _, filters = read_words(["arm=He, twice"], {})
    assert selected([named, by_hand, other], filters) == [named, by_hand]
    assert selected([named, by_hand, other], {**filters, "seed": ("1",)}) == [by_hand]


def test_a_label_with_a_comma_is_not_also_what_stands_before_the_comma():
    records = [dataclasses.replace(run(config=settings(arm=arm)), identity=arm) for arm in ("plain", "plain, He", "BN")]
    for given, chosen in (("plain, He", "plain, He"), ("plain,BN", "plain BN"), ("BN,plain, He", "plain BN")):
        _, filters = read_words([f"arm={given}"], {})
        assert " ".join(record.identity for record in selected(records, filters)) == chosen
    _, filters = read_words(["seed=1", "arm=plain, He"], {})
    assert selected([*records, dataclasses.replace(records[0], seed=1)], filters) == []


def test_of_several_values_those_that_no_run_has_are_named():
    records = [run(seed=seed) for seed in (0, 1)]
    name = records[0].config["model"]["name"]
    _, filters = read_words([f"model={name},resnet81", "seed=0,1,2", "lr.milestones=[60,120,160]"], {})
    assert not_among(selected(records, filters), filters) == "No run with model.name=resnet81, seed=2."
    assert not not_among(records, {"seed": ("0", "1", "0,1"), "epochs": ("3",)})


def test_a_setting_without_effect_chooses_no_part_of_the_seeds():
    by_sum, by_mean = (
        run(config=settings(aggregation__name="sum")),
        run(seed=1, config=settings(aggregation__name="mean")),
    )
    other = dataclasses.replace(run(config=settings("farkasnet18", aggregation__name="sum")), identity="other")
    assert selected([by_sum, by_mean, other], {"aggregation.name": ("mean",)}) == [by_sum, by_mean]
    assert selected([by_sum, by_mean, other], {"aggregation.name": ("sum",)}) == [by_sum, by_mean, other]
    chosen = {"seed": ("0",), "aggregation.name": ("sum",)}
    assert selected([by_sum, by_mean, other], chosen) == [by_sum, other], "of the seeds that were chosen before"


def test_a_failed_run_counts_as_a_guess_among_the_classes_of_its_data(tmp_path, capsys):
    of_four = on_data(tmp_path / "four", classes=4)
    assert chance_error(of_four) == 75.0
    for dataset, chance in (("digits", 90.0), ("moons", 50.0), ("synthetic", 90.0)):
        assert chance_error(run(config=settings(dataset__name=dataset))) == chance
    assert chance_error(run(config={"dataset": {"name": "mine", "num_classes": 5}})) == 80.0
    assert capsys.readouterr().err == ""
    unknown = run(config={"dataset": {"name": "mine"}}, path=tmp_path / "unknown")
    assert [chance_error(unknown), chance_error(unknown)] == [100.0, 100.0]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"warning: {unknown.path}: nothing says how many classes")
    for classes in ("4", 1):
        assert chance_error(on_data(tmp_path / "damaged", classes=classes)) == 100.0
    good, held_out = run(test_error=7.0), settings(dataset__validation=0.1)
    assert (has_failed(good), ranked_error(good)) == (False, 7.0)
    for bad in (run(state="failed", test_error=7.0), run(test_error=None), run(config=held_out, test_error=7.0)):
        assert (has_failed(bad), ranked_error(bad)) == (True, 90.0)
    assert ranked_error(run(config=held_out, validation_error=8.0, test_error=1.0)) == 8.0
    assert not has_failed(run(state="running"))


def test_runs_of_unknown_data_belong_to_the_others_where_these_agree(tmp_path):
    first, again, other = (
        on_data(tmp_path / name, fingerprint=mark) for name, mark in (("a", "aa"), ("b", "aa"), ("c", "cc"))
    )
    unknown, strange = run(test_error=1.0), on_data(tmp_path / "d", fingerprint=5)
    assert [fingerprint(record) for record in (first, unknown, strange)] == ["aa", "", ""]
    assert by_data([first, again]) == {"aa": [first, again]}
    assert by_data([unknown, first, strange]) == {"aa": [unknown, first, strange]}
    assert by_data([first, other]) == {"aa": [first], "cc": [other]}
    assert by_data([first, unknown, other]) == {"aa": [first], "": [unknown], "cc": [other]}
    assert by_data([unknown]) == {"": [unknown]}
