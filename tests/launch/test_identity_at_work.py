"""Who trains what: the same command from several processes at once, sweeps that overlap, and what is left alone."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from farkas_exp import runs
from farkas_exp.config import parse
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import collect, open_run, read_json, read_rows
from farkas_exp.training.trainer import Trainer
from tests.configs import config
from tests.forks import Fork
from tests.made_runs import make_run, settings
from tests.paths import ROOT
from tests.small_command import small
from tests.stopping import stop_after


def test_two_overlapping_sweeps_at_once_train_each_run_exactly_once(tmp_path):
    """The log has one line per epoch that was trained by anybody."""
    runs_dir = tmp_path / "runs"
    orders = {tmp_path / "first": "seed=0,1,2", tmp_path / "second": "seed=2,1,0"}
    sweeps = [Fork(partial(small, runs_dir, "-m", order, "epochs=2"), said) for said, order in orders.items()]
    ended = [sweep.end() for sweep in sweeps]
    assert {status for status, _ in ended} <= {0, 75}, ended
    assert not any("warning" in out for _, out in ended), ended
    trained = [line for _, out in ended for line in out.splitlines() if line.startswith("finished: ")]
    assert len(trained) == len(set(trained)) == 3
    records = collect(runs_dir)
    assert [(record.seed, record.state) for record in records] == [(0, "finished"), (1, "finished"), (2, "finished")]
    for record in records:
        log = runs.RunDirectory(record.path).log.read_text()
        assert [log.count(f" epoch {epoch}/2 ") for epoch in (1, 2)] == [1, 1]
        assert [row["epoch"] for row in record.metrics()] == [1, 2]
    assert small(runs_dir, "-m", "seed=0,1,2", "epochs=2") == 0


@pytest.mark.parametrize("other", [{"seed": 7}, {"lr__value": 0.2}])
def test_a_finished_run_in_the_folder_of_another_does_not_count_as_that_one(tmp_path, other):
    """As left by a copy or a new name of its folder."""
    mine, wanted = settings(dataset__name="digits"), settings(dataset__name="digits", **other)
    path = make_run(tmp_path, mine)
    made = parse({**wanted, "runs_dir": str(tmp_path)})
    place = open_run(made).path
    place.parent.mkdir(exist_ok=True)
    path.rename(place)
    with pytest.raises(UserError, match=rf"{place}/run.json: not the record of this run, but of \w+ seed 0; move "):
        execution.settled(made)


def test_a_busy_run_is_passed_over_and_named_and_the_status_says_try_again(tmp_path, capsys):
    assert small(tmp_path, "-m", "seed=0,1", "epochs=1") == 0
    for record in collect(tmp_path):
        runs.RunDirectory(record.path).result.unlink()
    held = collect(tmp_path)[0]
    capsys.readouterr()
    with runs.RunDirectory(held.path).locked():
        assert small(tmp_path, "-m", "seed=0,1", "epochs=1") == 75
    out = capsys.readouterr().out
    assert "2 runs in" in out
    assert "1 finished, 1 busy elsewhere" in out
    assert f"{held.path}: this run is being trained by process {os.getpid()} on " in out
    assert "To go on: python -m farkas_exp " in out


def test_a_run_that_was_finished_meanwhile_counts_as_done(tmp_path):
    made = config(tmp_path, epochs=1)
    busy = outcomes.Outcome(outcomes.BUSY, str(open_run(made).path), "this run is being trained by process 1 on x")
    outcomes.record_outcome(tmp_path / "sweep", 0, ["seed=0"], busy)
    assert outcomes.read_outcomes(tmp_path / "sweep") == [busy]
    execution.execute(made)
    (outcome,) = outcomes.read_outcomes(tmp_path / "sweep")
    assert (outcome.status, outcome.exit_status) == (outcomes.SKIPPED, 0)
    assert "trained meanwhile by another process: test error" in outcome.note


def test_a_finished_run_is_recognised_in_milliseconds(tmp_path, monkeypatch):
    made = config(tmp_path, epochs=1)
    execution.execute(made)
    monkeypatch.setattr(Trainer, "__init__", lambda *arguments: pytest.fail("built a trainer"))
    times = []
    for _ in range(20):
        begin = time.process_time()
        assert execution.execute(made).status == outcomes.SKIPPED
        times.append(time.process_time() - begin)
    assert min(times) < 0.01


# --- the failure policy of a sweep


def crashing(monkeypatch, *seeds):
    original = Trainer.evaluate

    def evaluate(self, epoch):
        if self.config.seed in seeds:
            raise RuntimeError("a defect\nof two lines")
        return original(self, epoch)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)


def test_a_crash_never_stops_a_sweep_and_the_summary_says_how_to_retry(tmp_path, monkeypatch, capfd):
    command = ["-m", "seed=1,0", "epochs=1"]
    with monkeypatch.context() as patched:
        crashing(patched, 1)
        assert small(tmp_path, *command) == 1
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "2 runs in" in captured.out
    assert "1 finished, 1 crashed" in captured.out
    assert "RuntimeError: a defect of two lines; traceback in " in captured.out
    (crashed,) = [record for record in collect(tmp_path) if record.state == runs.CRASHED]
    assert "Traceback" in (crashed.path / "error.txt").read_text()
    retry = captured.out.splitlines()[-1]
    assert retry.startswith("To retry the crashed ones: python -m farkas_exp ")
    assert retry.endswith(" retry_failed=true")

    assert small(tmp_path, *command) == 1  # left alone
    assert "1 skipped, 1 crashed" in capfd.readouterr().out
    assert small(tmp_path, *command, "retry_failed=true") == 0
    assert "1 finished, 1 skipped" in capfd.readouterr().out


def test_fail_fast_ends_the_sweep_after_the_first_crash(tmp_path, monkeypatch, capfd):
    crashing(monkeypatch, 1)
    assert small(tmp_path, "-m", "seed=0,1,2", "epochs=1", "fail_fast=true") == 1
    out = capfd.readouterr().out
    assert "2 runs in" in out
    assert "1 finished, 1 crashed" in out
    assert "The sweep ended early: fail_fast=true; runs not begun are not counted." in out
    assert sorted(record.seed for record in collect(tmp_path)) == [0, 1]


def test_a_diverged_run_is_a_result_and_the_sweep_succeeds(tmp_path, capfd):
    assert small(tmp_path, "-m", "lr.value=1e30,0.01", "epochs=1", "fail_fast=true") == 0
    assert "1 finished, 1 failed to train" in capfd.readouterr().out
    assert small(tmp_path, "-m", "lr.value=1e30,0.01", "epochs=1") == 0
    assert "2 skipped" in capfd.readouterr().out


def test_an_interrupted_sweep_says_so_and_the_same_command_finishes_it(tmp_path, monkeypatch, capfd):
    command = ["-m", "seed=0,1,2", "epochs=2"]
    with monkeypatch.context() as patched:
        stop_after(13, patched)  # in the second run
        assert small(tmp_path, *command) == 75
    out = capfd.readouterr().out
    assert "1 finished, 1 interrupted" in out
    assert "The sweep ended early: stopped by a signal" in out
    assert out.splitlines()[-1].startswith("To go on: python -m farkas_exp ")
    assert small(tmp_path, *command) == 0
    assert "2 finished, 1 skipped" in capfd.readouterr().out


def test_a_second_interrupt_is_to_be_continued_too(tmp_path, monkeypatch, capfd):
    original = Trainer.evaluate

    def interrupted(self, epoch):
        if self.config.seed == 1:
            raise KeyboardInterrupt
        return original(self, epoch)

    monkeypatch.setattr(Trainer, "evaluate", interrupted)
    assert small(tmp_path, "-m", "seed=0,1", "epochs=1") == 75
    captured = capfd.readouterr()
    assert "1 finished, 1 interrupted" in captured.out
    assert "stopped by a signal" in captured.out
    assert "Traceback" not in captured.err


# --- many kills


@pytest.mark.slow
def test_runs_that_are_killed_at_random_moments_end_as_if_they_were_not(tmp_path):
    """A few kills; `make soak` has fifty."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "soak.py"), "kills=2", "epochs=4", "runs=2", f"folder={tmp_path}"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything is as undisturbed" in done.stdout
    assert not list(Path(tmp_path).rglob("*.tmp"))
    records = collect(tmp_path / "round_1")
    assert {record.state for record in records} == {runs.FINISHED}
    assert [len(read_rows(runs.RunDirectory(record.path).metrics)) for record in records] == [4] * len(records)
    assert read_json(records[0].path / "result.json")["epochs"] == 4
