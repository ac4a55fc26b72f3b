"""`tracking=[...]`: the table and the events of a run follow its metrics, also over an interruption."""

import csv
import math

import pytest

from farkas_exp import runs
from farkas_exp.launch.execution import execute
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import RunDirectory, mirrors, open_run, read_rows
from farkas_exp.runs.jsonfiles import append_row
from tests.configs import config
from tests.stopping import stop_after


def table(run):
    with run.table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_rows_of_the_metrics_over_an_interruption(tmp_path, monkeypatch):
    made = config(tmp_path, tracking=["csv"], checkpoint={"every_epochs": 2})
    stop_after(13, monkeypatch)
    assert execute(made).status == runs.INTERRUPTED
    run = open_run(made)
    run.table.write_text("torn")  # whatever was left
    assert execute(made).status == runs.FINISHED
    rows = read_rows(run.metrics)
    assert [row["epoch"] for row in table(run)] == ["1", "2", "3"]
    assert [float(row["test_error"]) for row in table(run)] == [row["test_error"] for row in rows]
    assert [row["peak_memory_bytes"] for row in table(run)] == [""] * 3


def test_a_finished_run_says_which_mirrors_it_lacks(tmp_path):
    execute(config(tmp_path, tracking=["csv"]))
    skipped = execute(config(tmp_path, tracking=["csv", "tensorboard"]))
    assert skipped.note.endswith("; no tensorboard: a mirror follows a run while it trains")
    assert "a mirror follows" not in execute(config(tmp_path, tracking=["csv"])).note


def test_a_number_that_is_not_finite_is_an_empty_cell(tmp_path):
    run = RunDirectory(tmp_path)
    mirror = mirrors.CsvMirror(run)
    for row in ({"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": math.nan}, {"epoch": 3, "loss": math.inf}):
        append_row(run.metrics, row)
        mirror.log(row)
    assert [row["loss"] for row in table(run)] == ["2.0", "", ""]


def test_a_link_in_place_of_the_events_is_not_followed(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.events.symlink_to(tmp_path)
    with pytest.raises(UserError, match="it is a symbolic link, which is not followed"), run.locked():
        pass


def test_a_further_figure_becomes_a_column(tmp_path):
    run = RunDirectory(tmp_path)
    mirror = mirrors.CsvMirror(run)
    for row in ({"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}, {"epoch": 3, "loss": 0.5, "error": 7.0}):
        append_row(run.metrics, row)
        mirror.log(row)
    assert table(run) == [
        {"epoch": "1", "loss": "2.0", "error": ""}, {"epoch": "2", "loss": "1.0", "error": ""},
        {"epoch": "3", "loss": "0.5", "error": "7.0"},
    ]  # fmt: skip


def test_tensorboard_shows_each_epoch_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in ((1, 2, 3), (2, 3)):  # goes on after the first
        mirror = mirrors.TensorBoardMirror(RunDirectory(tmp_path), epochs[0] - 1)
        for epoch in epochs:
            mirror.log({"epoch": epoch, "train_loss": 1 / epoch, "test_error": None, "time": 1.0})
        mirror.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train_loss"]
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3]


def test_a_missing_package_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^tracking: tensorboard needs the package tensorboard; pip install 'farkas-"):
        execute(config(tmp_path / "runs", tracking=["tensorboard"]))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match=r"tracking\[0\]: unknown 'tensorbord'; did you mean 'tensorboard'"):
        config(tracking=["tensorbord"])
