"""The comparison without normalization: nothing chosen on the test set, and the table on made runs."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.config import to_dict
from farkas_exp.launch.cli import main
from farkas_exp.machine.errors import UserError
from farkas_exp.report import style
from farkas_exp.report.methods import Arms
from farkas_exp.report.render import show
from farkas_exp.runs import RunRecord, collect
from farkas_exp.runs.best import best_value
from farkas_exp.studies.without_normalization.arms import CHOSEN
from farkas_exp.studies.without_normalization.comparison import (
    Method,
    comparison_table,
    rates_figure,
    report,
    shared_setting,
    transformers_report,
)
from farkas_exp.studies.without_normalization.comparison import find_methods as find
from tests import composing
from tests.composing import jobs
from tests.made_runs import make_run, settings

RATES = (0.01, 0.03, 0.1, 0.3)


def method_settings(arm: str, rate: float, validation: float, **more: Any) -> dict[str, Any]:
    scale = {"plain": 1.0, "Farkas sum": 0.5, "BN": 0.25}[arm]
    return settings(
        "resnet34", experiment="without_normalization", arm=arm, dataset__name="digits", epochs=4, lr__value=rate,
        dataset__validation=validation, init__last_scale=scale, **more,
    )  # fmt: skip


ARMS = Arms({arm: method_settings(arm, 0.1, 0.0) for arm in ("plain", "Farkas sum", "BN")}, CHOSEN)


def find_methods(records: Sequence[RunRecord]) -> list[Method]:
    return find(records, ARMS)[0]


def search(runs: Path, arm: str, errors: Mapping[float, float | None], seed: int = 0, **more: Any) -> None:
    """Finished runs with the given errors on held-out images; None for a loss that was not finite."""
    for rate, error in errors.items():
        state = "failed" if error is None else "finished"
        result = {"test_error": None} if error is None else None
        config = method_settings(arm, rate, 0.2, **more)
        make_run(runs, config, seed=seed, state=state, test_error=error or 90.0, reason="loss", result=result)


def test_runs(runs: Path, arm: str, rate: float, errors: tuple[float, ...]) -> None:
    for seed, error in enumerate(errors):
        make_run(runs, method_settings(arm, rate, 0.0), seed=seed, test_error=error)


test_runs.__test__ = False  # type: ignore[attr-defined]


def composed(arm: str, runs: Path, **more: Any) -> dict[str, Any]:
    """What the second stage composes, with the rate left to the search."""
    nested = method_settings(arm, 0.5, 0.0, **more)
    nested["lr"]["value"] = "${best:lr.value}"
    return {**nested, "runs_dir": str(runs)}


def test_the_rate_of_the_second_stage_is_the_best_on_held_out_images_of_the_same_setting(tmp_path: Path) -> None:
    search(tmp_path, "plain", dict(zip(RATES, (60.0, 20.0, 40.0, None), strict=True)))
    search(tmp_path, "Farkas sum", dict(zip(RATES, (30.0, 25.0, 5.0, 6.0), strict=True)))
    search(tmp_path, "plain", {0.3: 1.0}, augmentation__flip=False)  # another setting
    test_runs(tmp_path, "plain", 0.01, (0.5, 0.5))  # better, but on the test set
    make_run(tmp_path, method_settings("plain", 0.03, 0.0), seed=2, state="interrupted", epoch=1)  # to be continued
    assert best_value("lr.value", composed("plain", tmp_path)) == 0.03
    assert best_value("lr.value", composed("Farkas sum", tmp_path)) == 0.1
    assert best_value("lr.value", composed("plain", tmp_path, augmentation__flip=False)) == 0.3


def test_the_mean_over_seeds_counts_and_of_equal_rates_the_smaller_wins(tmp_path: Path) -> None:
    search(tmp_path, "plain", {0.01: 10.0, 0.03: 12.0, 0.1: 11.0})
    search(tmp_path, "plain", {0.01: 30.0, 0.03: 12.0, 0.1: 13.0}, seed=1)
    assert best_value("lr.value", composed("plain", tmp_path)) == 0.03


def test_equal_rates_are_equal_in_the_table_as_in_the_search_whatever_the_order_of_their_seeds(tmp_path: Path) -> None:
    """Summed one by one, 10.1 + 11.5 + 10.8 is larger than 10.8 + 11.5 + 10.1, by rounding."""
    for seed, (one, other) in enumerate(((10.1, 10.8), (11.5, 11.5), (10.8, 10.1))):
        search(tmp_path, "plain", {0.01: one, 0.03: other}, seed=seed)
    test_runs(tmp_path, "plain", 0.01, (20.0,))
    (method,) = find_methods(collect(tmp_path))
    assert method.best_rate == best_value("lr.value", composed("plain", tmp_path)) == 0.01
    assert method.errors == {0: 20.0}
    assert len(report(collect(tmp_path), ARMS).tables) == 1, "one method has no ranks"


def test_a_search_that_is_missing_or_not_done_is_said(tmp_path: Path) -> None:
    search(tmp_path, "plain", {0.01: 10.0})
    with pytest.raises(UserError, match=r"^lr\.value: its search has no run of this setting in runs_dir"):
        best_value("lr.value", composed("BN", tmp_path))
    make_run(tmp_path, method_settings("plain", 0.1, 0.2), state="interrupted", epoch=2)
    with pytest.raises(UserError, match=r"^lr\.value: .* of its search is interrupted; finish the search first"):
        best_value("lr.value", composed("plain", tmp_path))


def test_the_table_has_each_method_at_its_own_rate_and_its_capacity(tmp_path: Path) -> None:
    search(tmp_path, "plain", dict(zip(RATES, (88.0, 87.0, 90.0, None), strict=True)))
    search(tmp_path, "BN", dict(zip(RATES, (30.0, 9.0, 4.5, 8.0), strict=True)))
    search(tmp_path, "Farkas sum", dict(zip(RATES, (12.0, 16.9, 60.0, 12.5), strict=True)))
    test_runs(tmp_path, "BN", 0.1, (3.0, 5.0))
    test_runs(tmp_path, "BN", 0.3, (1.0,))  # not the best rate: left out
    make_run(tmp_path, method_settings("BN", 0.3, 0.0), seed=1, state="failed", reason="loss")
    make_run(tmp_path, method_settings("Farkas sum", 0.01, 0.0), seed=0, test_error=14.0)
    config = method_settings("Farkas sum", 0.01, 0.0)
    make_run(tmp_path, config, seed=1, state="failed", test_error=90.0, reason="loss", result={"test_error": None})
    make_run(tmp_path, config, seed=2, state="running", epoch=1)
    make_run(tmp_path, method_settings("plain", 0.03, 0.0), state="interrupted", epoch=1)
    table = comparison_table(find_methods(collect(tmp_path)))
    shown = {row[0].lines[0]: [cell.lines[0] for cell in row[1:8]] for row in table.rows}
    assert list(shown) == ["BN", "Farkas sum", "plain"]  # by test error
    assert shown["BN"] == ["0.1", "4.50", "4.00 ± 1.41", "2", "0", "0.03 – 0.3", "≥ 10"]
    # 0.3 is as good as 0.01, but 0.1 between them is not: the range has no gap.
    assert shown["Farkas sum"] == ["0.01", "12.00", "14.00", "1", "1", "0.01 – 0.03", "≥ 3"]
    assert shown["plain"] == ["0.03", "87.00", "–", "0", "0", "–", "–"]  # never trains
    notes = " ".join(table.notes)
    assert "Left out, runs on the test set at a rate that is not the best: 2." in notes
    assert "Runs that have no result yet: 2." in notes
    assert [record["ranks_with"] for record in table.records] == [4.0, 52.0, None], "at the best rate alone"
    assert table.records[1]["held_out_error_at_0.1"] == 60.0


@pytest.mark.parametrize(("best", "usable"), [(80.9, [0.01, 0.03]), (81.0, [])])
def test_rates_are_usable_where_the_best_is_below_nine_tenths_of_chance(
    tmp_path: Path, best: float, usable: list[float]
) -> None:
    search(tmp_path, "plain", {0.01: best, 0.03: best + 5, 0.1: best + 5.1})
    assert find_methods(collect(tmp_path))[0].usable == usable


def test_a_range_of_usable_rates_inside_of_the_grid_has_its_own_capacity(tmp_path: Path) -> None:
    search(tmp_path, "BN", dict(zip(RATES, (60.0, 5.0, 10.0, 60.0), strict=True)))
    table = comparison_table(find_methods(collect(tmp_path)))
    assert [cell.lines for cell in table.rows[0][6:8]] == [("0.03 – 0.1",), ("3.33",)], "no lower bound"
    assert table.records[0]["capacity_is_lower_bound"] is False
    search(tmp_path, "plain", dict(zip(RATES, (8.0, 7.0, 4.0, 60.0), strict=True)))
    assert find_methods(collect(tmp_path))[0].usable == [0.01, 0.03, 0.1], "down to the smallest rate"


def test_methods_without_a_test_follow_by_their_held_out_error_and_those_without_a_search_come_last(
    tmp_path: Path,
) -> None:
    search(tmp_path, "plain", {0.1: 20.0})
    search(tmp_path, "Farkas sum", {0.1: 30.0})
    make_run(tmp_path, method_settings("BN", 0.1, 0.2), state="interrupted", epoch=1)
    assert [method.name for method in find_methods(collect(tmp_path))] == ["plain", "Farkas sum", "BN"]


def test_the_picture_marks_the_best_rate_the_usable_ones_and_those_at_which_any_run_failed(tmp_path: Path) -> None:
    search(tmp_path, "BN", {0.01: 60.0, 0.03: 7.0, 0.1: 5.0, 0.3: 10.0})
    search(tmp_path, "BN", {0.01: 60.0, 0.03: 7.0, 0.1: 5.0, 0.3: None}, seed=1)
    _, _, failed, best, usable = rates_figure(find_methods(collect(tmp_path))).axes[0].get_lines()
    assert (failed.get_marker(), [*failed.get_xdata()], [*failed.get_ydata()]) == ("x", [0.3], [50.0])
    assert (best.get_marker(), [*best.get_xdata()], [*best.get_ydata()]) == ("o", [0.1], [5.0])
    assert [*usable.get_xdata()] == pytest.approx([0.03, 0.1], rel=0.06)


def test_a_single_usable_rate_is_drawn_some_pixels_long(tmp_path: Path) -> None:
    search(tmp_path, "BN", {0.0001: 60.0, 0.01: 5.0, 1.0: 60.0})
    axes = rates_figure(find_methods(collect(tmp_path))).axes[0]
    usable = axes.get_lines()[-1]
    (first, _), (last, _) = usable.get_transform().transform(usable.get_xydata())
    assert last - first > 1.5


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([0], "* Failed (the loss was not finite): left out of the mean and counted. A run at chance has not failed"
              " (failure.epochs=0) and counts in the mean."),
        ([5], "* Failed (the loss was not finite, or the error was at chance or worse in 5 epochs): left out of the"
              " mean and counted."),
        ([0, 5], "* Failed (the loss was not finite, or the error was at chance or worse in 5 epochs): left out of the"
                 " mean and counted. A run at chance has not failed (with failure.epochs=0) and counts in the mean."),
    ],
)  # fmt: skip
def test_the_note_says_what_has_counted_as_failed(tmp_path: Path, rules: list[int], expected: str) -> None:
    for seed, epochs in enumerate(rules):
        config = method_settings("plain", 0.1, 0.2, failure__epochs=epochs)
        make_run(tmp_path, config, seed=seed, test_error=90.0)
    notes = comparison_table(find(collect(tmp_path), Arms({"plain": config}, (*CHOSEN, "failure.epochs")))[0]).notes
    assert f"{expected} Methods and rates rank with a failed run at chance." in notes


def test_a_grid_that_was_extended_for_one_method_is_not_called_incomplete(tmp_path: Path) -> None:
    for name in ("BN", "plain", "Farkas sum"):
        search(tmp_path, name, {0.01: 30.0, 0.03: 20.0} | ({0.1: 9.0} if name == "BN" else {}))
    notes = comparison_table(find_methods(collect(tmp_path))).notes
    assert "Searched at further rates than most: BN." in notes
    assert not any("Not complete" in note for note in notes)


def test_a_part_of_the_runs_is_rendered_with_its_picture(tmp_path: Path) -> None:
    search(tmp_path, "BN", {0.01: 30.0, 0.03: 9.0})
    search(tmp_path, "plain", {0.01: 80.0})
    stream = io.StringIO()
    files = show(report(collect(tmp_path), ARMS), tmp_path / "out", ("md", "csv", "png"), stream)
    assert [path.suffix for path in files] == [".md", ".csv", ".png"]
    assert "Not complete: of the 2 rates that most were searched at, some lack: plain." in stream.getvalue()
    assert "unequal seeds" not in stream.getvalue()
    search(tmp_path, "BN", {0.03: 9.0}, seed=1)
    assert any(
        "unequal seeds" in note and note.endswith(": BN.") for note in report(collect(tmp_path), ARMS).tables[0].notes
    )
    search(tmp_path, "plain", {0.03: 70.0}, seed=1)
    assert any(note.endswith(": BN; plain.") for note in report(collect(tmp_path), ARMS).tables[0].notes), "one each"


def test_other_runs_are_left_out_and_two_budgets_are_not_mixed(tmp_path: Path) -> None:
    make_run(tmp_path, settings("resnet18", init__last_scale=0.3))
    with pytest.raises(UserError, match="no run there is of a method of this comparison"):
        find_methods(collect(tmp_path))
    search(tmp_path, "BN", {0.01: 30.0})
    search(tmp_path, "plain", {0.01: 40.0})
    assert [method.name for method in find_methods(collect(tmp_path))] == ["BN", "plain"]
    search(tmp_path, "plain", {0.01: 20.0, 0.03: 10.0}, batch_size=64)
    methods, notes = find(collect(tmp_path), ARMS)
    assert [(method.name, method.held_out) for method in methods] == [("BN", {0.01: 30.0}), ("plain", {0.01: 40.0})]
    assert notes == ["Left out: 2 runs in another setting (batch_size 64); choose it with KEY=VALUE."]
    _, notes = find([run for run in collect(tmp_path) if run.config["batch_size"] == 64], ARMS)
    assert notes == ["Not the experiment's setting: batch_size 64."]
    search(tmp_path / "deep", "plain", {0.01: 20.0}, model__blocks=[5, 5, 5])
    assert find(collect(tmp_path / "deep"), ARMS)[1] == ["Not the experiment's setting: model.blocks [5,5,5]."]


def test_methods_with_and_without_the_keys_of_a_group_are_in_one_table(tmp_path: Path) -> None:
    """Without a normalization its position does nothing, and is no setting that tells runs apart."""
    configs = {"plain": method_settings("plain", 0.1, 0.2), "LN": method_settings("plain", 0.1, 0.2)}
    configs["LN"]["normalization"] = {"name": "layer"}
    for config in configs.values():
        make_run(tmp_path, config)
    before = {**configs["LN"], "normalization": {"name": "layer", "position": "before"}}
    make_run(tmp_path, before, test_error=1.0)
    methods, notes = find(collect(tmp_path), Arms(configs, CHOSEN))
    assert {method.name: method.held_out for method in methods} == {"LN": {0.1: 10.0}, "plain": {0.1: 10.0}}
    assert notes == []


def test_the_colour_of_a_method_says_whether_its_network_has_farkas_layers(tmp_path: Path) -> None:
    networks = {"Farkas scale": "resnet34", "sum": "farkasnet34"}
    configs = {label: {**method_settings("plain", 0.1, 0.0), "model": {"name": n}} for label, n in networks.items()}
    for config in configs.values():
        make_run(tmp_path, config)
    methods, _ = find(collect(tmp_path), Arms(configs, CHOSEN))
    colors = {"Farkas scale": style.COLORS["vermilion"], "sum": style.COLORS["blue"]}
    assert {method.name: method.color for method in methods} == colors


def test_a_method_is_its_settings_whoever_trained_a_run_and_under_whatever_name(tmp_path: Path) -> None:
    for seed, names in enumerate(({"arm": None, "experiment": None}, {"arm": "mine"}, {"experiment": "lr_search"})):
        make_run(tmp_path, {**method_settings("BN", 0.1, 0.2), **names}, seed=seed, test_error=30.0)
    (method,) = find_methods(collect(tmp_path))
    assert method.name == "BN"
    assert len(method.search[0.1]) == 3


def test_a_method_does_not_rank_by_its_survivors(tmp_path: Path) -> None:
    for arm, error in (("BN", 10.0), ("plain", 1.0)):
        search(tmp_path, arm, {0.1: error})
        test_runs(tmp_path, arm, 0.1, (error,))
    config = method_settings("plain", 0.1, 0.0)
    make_run(tmp_path, config, seed=1, state="failed", test_error=95.0, reason="chance")
    make_run(tmp_path, config, seed=2, state="failed", reason="loss", result={"test_error": None})
    methods = find_methods(collect(tmp_path))
    table = comparison_table(methods)
    assert methods[1].errors == {0: 1.0, 1: 90.0, 2: 90.0}, "chance, not the 95 % it failed at"
    assert [row[0].lines[0] for row in table.rows] == ["BN", "plain"]
    assert table.rows[1][3].lines == ("1.00", f"ranks with {(1 + 90 + 90) / 3:.2f}")
    assert table.rows[1][3].marker == "*"
    assert table.records[1]["ranks_with"] == pytest.approx((1 + 90 + 90) / 3)


def test_a_rate_at_which_a_run_failed_is_not_the_best_by_the_others(tmp_path: Path) -> None:
    search(tmp_path, "BN", {0.01: 20.0, 0.1: 5.0})
    search(tmp_path, "BN", {0.01: 20.0, 0.1: None}, seed=1)
    (method,) = find_methods(collect(tmp_path))
    assert method.best_rate == 0.01
    assert method.held_out[0.1] == pytest.approx((5 + 90) / 2)


@pytest.mark.parametrize(
    ("experiment", "count", "seeds"),
    [pytest.param("without_normalization", 30, (3, 5), marks=pytest.mark.slow), ("transformers", 7, (3, 5))],
)
def test_every_method_has_the_same_budget_and_its_own_setting_and_the_search_holds_images_out(
    experiment: str, count: int, seeds: tuple[int, int]
) -> None:
    """`seeds`: how many the search and the test have."""
    stages = [jobs(experiment, "lr.value=0.01"), jobs(f"{experiment}_test", "lr.value=0.01")]
    assert {job.dataset.validation for job in stages[0]} == {0.2}
    assert {job.dataset.validation for job in stages[1]} == {0.0}
    assert len({str(shared_setting(to_dict(job))) for job in itertools.chain(*stages)}) == 1
    methods = {job.arm for job in stages[0]}
    assert len(methods) == count
    assert methods == {job.arm for job in stages[1]}
    assert [len(stage) for stage in stages] == [count * number for number in seeds]
    searched = {str({**to_dict(job), "arm": ""}) for job in stages[0] if job.seed == 0}
    assert len(searched) == count, "no two methods are the same"


def test_transformers_are_compared_by_themselves(tmp_path: Path) -> None:
    for job in jobs("transformers", "lr.value=0.001,0.003"):
        error = 90.0 if job.arm == "ViT" else 20.0 if job.lr.value == 0.001 else 30.0
        make_run(tmp_path, to_dict(job), test_error=error)
    with pytest.raises(UserError, match="no run there is of a method of this comparison"):
        report(collect(tmp_path))
    made = transformers_report(collect(tmp_path))
    (table,) = made.tables
    assert (made.name, [*made.figures]) == ("transformers", ["transformers"])
    assert [row[0].lines[0] for row in table.rows][-1] == "ViT"
    assert {record["best_rate"] for record in table.records} == {0.001}
    assert any("model.depth 4" in note and "model.patch 2" in note for note in table.notes)


TINY = ["arm=plain,farkas_mean", "epochs=1", "dataset.train_limit=100", "model.widths=[4,4,4]", "seed=0"]


@pytest.mark.usefixtures("in_words")
def test_both_stages_from_the_command_line_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TINY, "batch_size=40", f"runs_dir={tmp_path}", "progress=none", "hydra/launcher=basic"]
    assert main(["experiment=without_normalization_test", *command]) == 2
    assert "(lr.value: its search has no run" in capsys.readouterr().out
    assert main(["experiment=without_normalization", "lr.value=0.01,0.1", *command]) == 0
    assert main(["experiment=without_normalization_test", *command]) == 0
    shown = capsys.readouterr().out
    assert "2 runs in" in shown
    tests = [record for record in collect(tmp_path) if not record.config["dataset"]["validation"]]
    found = {method.name: method.best_rate for method in find(collect(tmp_path))[0]}
    assert {record.config["arm"]: record.config["lr"]["value"] for record in tests} == found
    rendered = (tmp_path / "report" / "without_normalization.md").read_text()  # by the second stage, of both
    assert all(f"| {name} | {rate:g} |" in rendered for name, rate in found.items())
    assert rendered.count(" | 1 | 0 | ") == 2
    assert main(["experiment=without_normalization_test", *command]) == 0
    assert "2 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [
        ("dataset=small_images", "dataset.root=DIR/pictures"),  # an augmentation that depends on the data; a label
        ("dataset=cifar10", "augmentation=crop_flip"),
        ("dataset=digits", "batch_size=8"),
    ],
)
def test_the_second_stage_finds_the_search_that_the_same_overrides_began(data: tuple[str, ...], tmp_path: Path) -> None:
    """What a run records, a label from its folder, values that depend on others, is what the search is found by."""
    overrides = [each.replace("DIR", str(tmp_path)) for each in data] + ["arm=bn", f"runs_dir={tmp_path / 'runs'}"]
    for rate, error in {0.003: 8.0, 0.03: 5.0, 0.3: 9.0}.items():
        config = composing.composed("experiment=without_normalization", f"lr.value={rate}", "seed=0", *overrides)
        make_run(tmp_path / "runs", to_dict(config), test_error=error)
    found = composing.composed("experiment=without_normalization_test", "seed=4", *overrides)
    assert found.lr.value == 0.03
