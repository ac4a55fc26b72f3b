"""What a run directory is read as."""

from typing import Any

import pytest

from farkas_exp.runs import FINISHED, RUNNING, RunDirectory, read_run, write_json
from farkas_exp.runs.record import by_evaluation_set, evaluated_on, read_starts
from tests.made_runs import make_run, settings


@pytest.mark.parametrize(("validation", "name"), [(0.0, "test"), (0.1, "validation")])
def test_figures_are_read_under_the_set_that_was_evaluated(tmp_path, validation, name):
    rows = [{"epoch": 1, "test_error": 30.0, "train_error": 20.0}]
    run = read_run(make_run(tmp_path, settings(epochs=1, dataset__validation=validation), test_error=7.0, rows=rows))
    assert (run.evaluated_on, run.key("error")) == (name, f"{name}_error")
    assert run.metrics() == [{"epoch": 1, f"{name}_error": 30.0, "train_error": 20.0}]
    assert (run.result[f"{name}_error"], run.progress[f"{name}_error"]) == (7.0, 7.0)
    assert f"best_{name}_error" in run.result


def test_only_figures_of_the_evaluation_set_are_renamed():
    old = {"test_loss": 1, "best_test_error": 2, "train_error": 3, "latest_error": 4, "epoch": 5}
    assert by_evaluation_set(old, "test") == old
    assert by_evaluation_set(old, "validation") == {
        "validation_loss": 1, "best_validation_error": 2, "train_error": 3, "latest_error": 4, "epoch": 5,
    }  # fmt: skip
    assert [evaluated_on(config) for config in ({}, {"dataset": None}, {"dataset": {"validation": 0.2}})] == [
        "test", "test", "validation",
    ]  # fmt: skip


def test_the_epoch_is_that_of_the_result_or_else_of_the_progress(tmp_path):
    going = make_run(tmp_path, settings(epochs=9), state=RUNNING, epoch=4)
    found = read_run(going)
    assert (found.epoch, found.epochs, found.result) == (4, 9, None)
    done = make_run(tmp_path, settings(epochs=9), seed=1, epoch=9)
    write_json(RunDirectory(done).state, {"state": RUNNING, "epoch": 8})
    found = read_run(done)
    assert (found.epoch, found.state) == (9, FINISHED)


@pytest.mark.parametrize(("epochs", "left"), [([1, 2], 2), ([2, 3], 0), ([1, 3], 1), ([1, None, 3], 1)])
def test_the_rows_of_an_unfinished_run_end_before_one_that_is_missing(tmp_path, epochs, left):
    rows = [{"epoch": epoch} for epoch in epochs]
    run = read_run(make_run(tmp_path, settings(epochs=9), state="interrupted", epoch=3, rows=rows))
    assert run.metrics() == rows[:left], "those after it would be drawn at other epochs"


@pytest.mark.parametrize(("error", "done"), [(0, True), (100.0, True), (100.5, False), (-1.0, False), ("7", False)])
def test_a_result_has_errors_in_percent(tmp_path, error, done):
    run = read_run(make_run(tmp_path, settings(), result={"test_error": error}))
    assert (run.result is not None, bool(run.damage)) == (done, not done)


@pytest.mark.parametrize(
    ("environment", "starts"),
    [
        (None, []),
        ({"data": {}, "starts": [{"torch": "1"}, {"torch": "2"}]}, [{"torch": "1"}, {"torch": "2"}]),
        ({"starts": [{"torch": "1"}, 5]}, [{"torch": "1"}]),
        ({"data": {}, "torch": "0", "threads": 2}, [{"torch": "0", "threads": 2}]),  # as older versions have it
        (["torch"], []),
    ],
)
def test_the_starts_of_a_run_are_read_of_every_version(tmp_path, environment: Any, starts):
    run = RunDirectory(tmp_path)
    if environment is not None:
        write_json(run.environment, environment)
    assert read_starts(run) == starts
