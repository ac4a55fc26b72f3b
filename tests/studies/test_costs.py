"""What the methods of the comparisons cost and need, and that the comparison shows what was measured."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.machine.errors import UserError
from farkas_exp.report.methods import Arms
from farkas_exp.report.render import show
from farkas_exp.runs import collect
from farkas_exp.studies.without_normalization import costs
from farkas_exp.studies.without_normalization.arms import CHOSEN, composed
from farkas_exp.studies.without_normalization.comparison import comparison_table, find_methods
from farkas_exp.studies.without_normalization.costs import Cost, measure, needs
from tests.made_runs import make_run, settings

SMALL = {"model__blocks": [1], "model__widths": [4], "dataset__name": "digits", "epochs": 2, "batch_size": 20,
         "augmentation__cutout": 0}  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "STEPS", 1)
    monkeypatch.setattr(costs, "ROUNDS", 1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (settings("resnet34"), "nothing"),
        (settings("resnet34", normalization__name="layer"), "nothing"),
        (settings("resnet34", normalization__name="batch"), "a batch"),
        (settings("resnet34", regularizer__name="sep_up"), "a batch"),
        (settings("resnet34", init__name="lsuv"), "images"),
        (settings("resnet34", init__name="zero_last"), "branches"),
        (settings("resnet34", residual__multiplier=0.0), "branches"),
        (settings("resnet34", weight__name="scaled"), "convolutions"),
        (settings("mlp", activation__name="tailored"), "activations fitted to the network"),
        (settings("fixup34"), "its own network"),
        (settings("farkasnet34", normalization__name="batch"), "a batch, Farkas layers"),
        (settings("nf_farkasnet34", weight__name="scaled"), "convolutions, Farkas layers, its own network"),
    ],
)
def test_what_a_method_needs(config: dict[str, Any], expected: str) -> None:
    assert needs(config) == expected


def test_trainers_are_measured_beside_the_first_of_them() -> None:
    plain = settings("resnet18", device="cpu", **SMALL)
    farkas = settings("farkasnet18", device="cpu", augmentation__mixup=0.5, lr__warmup=2.0, **SMALL)
    found = measure({"plain": plain, "Farkas": farkas})
    assert found["plain"].step == 1.0
    assert found["Farkas"].step > 0
    # stem, two convolutions of the block, and the classifier, at 8x8 pixels
    assert found["plain"].multiply_adds == 64 * 9 * (4 + 4 * 4 + 4 * 4) + 4 * 10
    assert found["plain"].parameters == 4 * 10 + 2 * (4 * 4 * 9 + 4) + 5 * 10
    assert found["Farkas"].needs == "Farkas layers"


def made(folder: Path) -> Arms:
    skipinit = settings("resnet18", residual__multiplier=0.0, **SMALL)
    configs = {"plain": settings("resnet18", **SMALL), "SkipInit": skipinit}
    for config in configs.values():
        make_run(folder, config)
    return Arms(configs, CHOSEN)


def test_the_comparison_shows_what_was_measured_beside_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = made(tmp_path)
    monkeypatch.setattr(costs, "COMPARISONS", {"without_normalization": "made"})
    monkeypatch.setattr(costs, "arms_of", lambda name: arms)
    before = {method.name: method.cost for method in find_methods(collect(tmp_path), arms)[0]}
    assert before["plain"] == Cost(1000, "nothing")  # what the run says of itself
    report = costs.report(collect(tmp_path))
    assert [table.name for table in report.tables] == ["without_normalization"]
    show(report, tmp_path / "report", ("csv", "md"), io.StringIO())
    methods, _ = find_methods(collect(tmp_path), arms)
    after = {method.name: method.cost for method in methods}
    assert after["plain"].step == 1.0
    assert after["SkipInit"].step != 1.0
    slower = [replace(method, cost=replace(method.cost, step=2.0)) for method in methods if method.name != "plain"]
    table = comparison_table([*slower, *[method for method in methods if method.name == "plain"]])
    assert "over that of plain," in " ".join(table.notes), "by its name: the best method stands first"
    shown = {row[0].lines[0]: [each.lines[0] for each in row[-4:]] for row in table.rows}
    assert shown["plain"] == ["1.00", "1,000", f"{after['plain'].multiply_adds:,}", "nothing"]
    assert shown["SkipInit"][-1] == "branches"
    other = [replace(run, config={**run.config, "batch_size": 40}) for run in collect(tmp_path)]
    assert {method.cost.multiply_adds for method in find_methods(other, arms)[0]} == {None}, "of another setting"


def test_the_methods_of_deep_narrow_are_measured_on_a_set_smaller_than_the_measured_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "STEPS", 3)  # an epoch has one
    arms = composed("deep_narrow")
    assert {config["dataset"]["test_size"] for config in arms.values()} == {500}, "resolved, so no run differs by it"
    for name in ("plain", "tailored"):
        make_run(tmp_path, {**arms[name], "model": {**arms[name]["model"], "depth": 3, "width": 2}, "device": "cpu"})
    (table,) = costs.report(collect(tmp_path)).tables
    assert table.name == "deep_narrow"
    assert [row["method"] for row in table.records] == ["plain", "tailored"]
    assert table.notes[1:] == ("Not the experiment's setting: model.depth 3, model.width 2.",)


@pytest.mark.parametrize(
    "dataset", [{"name": "image_folder", "root": "images"}, {"name": "mnist", "root": "images", "download": False}]
)
def test_images_of_runs_that_were_made_in_another_folder_are_asked_for_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {**settings("resnet18", **SMALL), "dataset": dataset}
    with pytest.raises(UserError, match=rf"^dataset\.root: .* '{tmp_path}/images' is no folder; .* put a link"):
        measure({"plain": config})


@pytest.mark.parametrize(
    "text", ["", "method\nplain\n", "method,setting,step,multiply_adds\nplain,x,1,1\n", "a,b\n1,2\n", "\0"]
)
def test_a_damaged_file_of_costs_is_passed_over(tmp_path: Path, text: str) -> None:
    arms = made(tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "costs_without_normalization.csv").write_text(text)
    methods, _ = find_methods(collect(tmp_path), arms)
    assert {method.cost.step for method in methods} == {None}


def test_runs_of_no_method_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = made(tmp_path)
    monkeypatch.setattr(costs, "arms_of", lambda name: arms)
    with pytest.raises(UserError, match="no run there is of a method of these comparisons"):
        costs.report([])
