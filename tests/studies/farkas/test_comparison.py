"""Two networks compared, on numbers that can be counted by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.report.arms import Arm
from farkas_exp.report.statistics import boschloo_test, permutation_test, welch_interval
from farkas_exp.runs import RunDirectory, RunRecord, collect
from farkas_exp.studies.farkas.comparison import (
    Comparison,
    Contrast,
    Failures,
    contrast,
    early_error,
    failures,
    first_error,
    in_pairs,
    significant,
    trains,
)
from farkas_exp.studies.farkas.filling import fill
from farkas_exp.studies.farkas.paper import TABLES
from tests.made_runs import make_run, settings
from tests.paper_cells import cell_settings

NONE_FAILED = Failures(("a", "b"), 0, 3, 0, 3)
DIGITS = settings(dataset__name="digits", epochs=10)


def run(error: float | None, state: str = "finished", path: Path = Path("nowhere"), epoch: int = 10) -> RunRecord:
    result = None if state == "running" else {"status": state, "test_error": error}
    return RunRecord(path, "x", "x", 0, DIGITS, state, epoch, 10, result)


def arm(*runs: RunRecord, label: str = "arm") -> Arm:
    return Arm(label, "x", DIGITS, runs)


def with_errors(path: Path, errors: list[float | None], **facts: Any) -> RunRecord:
    rows = [{"epoch": number, "test_error": error} for number, error in enumerate(errors, start=1)]
    RunDirectory(path).metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run(path=path, **facts)


def test_a_run_trains_below_nine_tenths_of_chance():
    assert [trains(run(error)) for error in (80.9, 81.0, 90.0)] == [True, False, False]
    assert not trains(run(5.0, "failed"))


def test_five_percent_is_significant_and_no_p_value_is_not():
    assert [significant(p) for p in (None, 0.0, 0.05, 0.0501)] == [False, True, True, False]


def test_the_first_error_is_that_of_epoch_one_or_chance_for_a_run_that_failed_before(tmp_path):
    assert first_error(with_errors(tmp_path, [60.0, 20.0], error=20.0)) == 60.0
    assert first_error(with_errors(tmp_path, [60.0], error=60.0, state="failed")) == 60.0
    assert first_error(with_errors(tmp_path, [None], error=None, state="failed")) == 90.0
    assert math.isnan(first_error(with_errors(tmp_path, [], error=None, state="running")))


def test_the_early_error_is_the_mean_of_the_first_three_tenths_and_chance_for_a_failed_run(tmp_path):
    errors = [50.0, 40.0, 30.0, 20.0, 10.0]
    assert early_error(with_errors(tmp_path, errors, error=1.0)) == 40.0
    assert early_error(with_errors(tmp_path, errors, error=1.0, epoch=3)) == 40.0
    assert early_error(with_errors(tmp_path, [50.0, None, 30.0], error=1.0)) == 40.0
    assert early_error(with_errors(tmp_path, errors, error=1.0, state="failed")) == 90.0
    assert math.isnan(early_error(with_errors(tmp_path, errors, error=1.0, state="running", epoch=2)))


def test_the_early_error_of_a_training_of_two_epochs_is_that_of_the_first(tmp_path):
    short = replace(with_errors(tmp_path, [50.0, 40.0], error=40.0, epoch=2), epochs=2)
    assert early_error(short) == 50.0


def test_failures_are_runs_with_a_result_that_do_not_train():
    bad, good = (
        arm(run(1.0, "failed"), run(85.0), run(5.0), label="bad"),
        arm(run(5.0), run(7.0, "running"), label="ok"),
    )
    found = failures(bad, good)
    assert found == Failures(("bad", "ok"), 2, 3, 0, 1)
    assert failures(bad, good, ("A", "B")).names == ("A", "B")
    assert found.text == f"Failed: 2 of 3 bad; 0 of 1 ok (p = {boschloo_test(2, 3, 0, 1):.2g})"
    assert NONE_FAILED.text == ""
    assert Failures(("a", "b"), 0, 3, 1, 3).text
    assert Failures(("a", "b"), 3, 3, 0, 0).p == Failures(("a", "b"), 0, 0, 3, 3).p == 1.0


def test_more_failures_are_a_larger_share_and_significant():
    often, seldom, few = (Failures(("a", "b"), worse, 10, better, 20) for worse, better in ((9, 1), (0, 19), (1, 3)))
    assert [(each.more(worse=True), each.more(worse=False)) for each in (often, seldom, few)] == [
        (True, False), (False, True), (False, False),
    ]  # fmt: skip
    share = Failures(("a", "b"), 10, 40, 9, 9)
    assert share.more(worse=False)
    assert not share.more(worse=True)


@pytest.mark.parametrize(
    ("counts", "expected"), [((0, 0, 0, 3), False), ((0, 3, 3, 3), True), ((3, 3, 0, 3), True), ((2, 3, 1, 3), False)]
)
def test_a_network_that_never_trained_has_runs(counts: tuple[int, int, int, int], expected: bool) -> None:
    assert Failures(("a", "b"), *counts).always == expected


def test_a_contrast_holds_the_errors_of_both_and_a_failed_run_at_chance():
    made = contrast(arm(run(10.0), run(1.0, "failed"), run(3.0, "running")), arm(run(4.0), run(6.0)), where="here")
    assert (made.where, made.worse, made.better, made.gain) == ("here", (10.0, 90.0), (4.0, 6.0), 45.0)
    assert made.failures == Failures(("arm", "arm"), 1, 2, 0, 2)
    assert cell((10.1, 11.5, 10.8), (10.8, 11.5, 10.1)).gain == 0, "rounding is no gain"
    assert contrast(arm(run(3.0, "running")), arm(run(4.0))) is None
    assert contrast(arm(run(4.0)), arm(run(3.0, "running"))) is None


def cell(worse: tuple[float, ...], better: tuple[float, ...], failed: Failures = NONE_FAILED) -> Contrast:
    return Contrast("cell", worse, better, failed)


ONE, TWO = cell((10.0, 11.0, 12.0), (5.0, 6.0, 8.0)), cell((20.0, 22.0), (20.0, 21.0))


def test_the_interval_of_several_cells_is_that_of_their_average_gain():
    both = Comparison((ONE, TWO))
    samples = [ONE.worse, ONE.better, TWO.worse, TWO.better]
    assert both.gains == [pytest.approx(11 - 19 / 3), 0.5]
    assert both.interval() == welch_interval(samples, [0.5, -0.5, 0.5, -0.5], 0.95, least_sd=1.0)
    assert ONE.interval(0.9) == welch_interval([ONE.worse, ONE.better], [1, -1], 0.9)
    assert both.joint_intervals() == [ONE.interval(0.975), TWO.interval(0.975)]
    single = cell((10.0,), (5.0, 6.0))
    assert single.interval() is None
    assert Comparison((ONE, single)).interval() == welch_interval([[ONE.gain, 4.5]], [1.0], least_sd=1.0)
    assert Comparison(()).interval() is None


def test_a_comparison_counts_over_its_cells():
    failed = Failures(("a", "b"), 1, 3, 2, 4)
    both = Comparison((cell(ONE.worse, ONE.better, failed), cell(TWO.worse, TWO.better, failed)))
    assert both.failures == Failures(("a", "b"), 2, 6, 4, 8)
    assert (both.runs, both.least_runs) == (10, 2)
    assert both.p == permutation_test([(ONE.worse, ONE.better), (TWO.worse, TWO.better)])
    assert cell((10.0,), (5.0, 6.0)).least_runs == cell((10.0, 11.0), (5.0,)).least_runs == 1
    assert both.p < 0.5
    nothing = Comparison(())
    assert (nothing.p, nothing.failures, nothing.least_runs, nothing.runs) == (None, None, 0, 0)


def test_a_network_loses_by_one_cell_or_by_its_failures():
    assert not Comparison((ONE, TWO)).lost
    assert Comparison((ONE, cell((5.0, 5.1, 5.2), (9.0, 9.1, 9.2)))).lost
    assert Comparison((cell((10.0,), (5.0,), Failures(("a", "b"), 0, 9, 9, 9)),)).lost
    assert not Comparison((cell((10.0,), (5.0,), Failures(("a", "b"), 9, 9, 0, 9)),)).lost


def test_a_network_that_fails_as_often_fails_no_more_than_the_other():
    even = Failures(("a", "b"), 9, 10, 9, 10)
    assert (even.more(worse=True), even.more(worse=False)) == (False, False)


def test_pairs_are_named_by_table_and_column_and_no_run_counts_in_two_cells(tmp_path):
    for wanted in TABLES["table1"].cells[:6]:  # with batch norm, two FarkasNets among them
        make_run(tmp_path, cell_settings(wanted), test_error=7.0 if "farkas" in wanted.model else 8.0)
    filled = fill(TABLES["table1"], collect(tmp_path))
    found = in_pairs([filled, filled], "batch")
    assert [each.where for each in found.cells] == ["Table 1, 18 layers", "Table 1, 34 layers"]
    assert {each.failures.names for each in found.cells} == {("ResNet", "FarkasNet")}
    assert found.gains == [1.0, 1.0]
    assert in_pairs([filled], "none").cells == ()


def test_many_permutations_are_drawn_the_same_each_time():
    rich = cell(tuple(range(20)), tuple(value + 0.5 for value in range(20)))
    assert Comparison((rich,)).p == Comparison((rich,)).p
