"""Measurements that are asked for: each is made once, also of a run that is done, or named where it cannot be."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from farkas_exp import runs
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import write_text
from farkas_exp.runs import open_run, read_json, read_rows
from farkas_exp.runs.measurements import Measurements
from farkas_exp.training import measuring
from tests.configs import config, values
from tests.stopping import stop_after

TINY = {
    "model": {"name": "mlp", "depth": 2, "width": 6, "blocks": None, "widths": None},
    "augmentation": {"flip": False},
    "dataset": {"train_limit": 80},
}
FULL = {"epochs": [0, 1, 3], "images": 16, "measures": ["grad_norm", "ntk"], "ntk_images": 2}


def measured(made):
    return {row["epoch"]: row for row in read_rows(open_run(made).diagnostics)}


@pytest.fixture
def whole(tmp_path):
    """The rows of a run that was measured on its way."""
    made = config(tmp_path / "whole", **TINY, diagnostics=FULL)
    assert execution.execute(made).status == runs.FINISHED
    rows = measured(made)
    assert list(rows) == [0, 1, 3]
    return rows


@pytest.mark.parametrize("before", [{}, {**FULL, "epochs": [1], "measures": []}, {**FULL, "measures": ["grad_norm"]}])
def test_a_finished_run_is_measured_where_its_network_is_kept(tmp_path, whole, before):
    first = config(tmp_path / "later", **TINY, diagnostics=before)
    assert execution.execute(first).status == runs.FINISHED
    weights = open_run(first).checkpoint.read_bytes()
    asked = config(tmp_path / "later", **TINY, diagnostics=FULL)
    outcome = execution.execute(asked)
    assert outcome.status == outcomes.SKIPPED
    rows = measured(asked)
    for epoch in (0, 3):
        for key, value in whole[epoch].items():
            assert rows[epoch][key] == (value if key != "measures" else rows[epoch][key])
        assert sorted(rows[epoch]["measures"]) == ["activity", "grad_norm", "ntk"]
    assert "measured now: epoch 0 (" in outcome.note
    lacks = "ntk" if before.get("measures") else ("activity, grad_norm, ntk" if not before else "grad_norm, ntk")
    assert f"not measured: epoch 1 ({lacks}), whose network is not kept" in outcome.note
    assert open_run(first).checkpoint.read_bytes() == weights
    lines = open_run(asked).diagnostics.read_text()
    again = execution.execute(asked)
    assert "measured now" not in again.note
    assert "not measured: epoch 1" in again.note
    assert open_run(asked).diagnostics.read_text() == lines


def test_other_settings_are_measured_anew_with_all_that_was_there(tmp_path):
    assert execution.execute(config(tmp_path, **TINY, diagnostics={**FULL, "epochs": [0, 3]})).status == runs.FINISHED
    asked = config(tmp_path, **TINY, diagnostics={"epochs": [3], "images": 8, "ntk_images": 2})
    assert "measured now: epoch 3 (activity, grad_norm, ntk)" in execution.execute(asked).note
    rows = measured(asked)
    assert [rows[epoch]["settings"]["images"] for epoch in (0, 3)] == [16, 8]
    assert {"layers", "grad_norm", "ntk_norm"} <= set(rows[3])
    assert sorted(rows[3]["measures"]) == ["activity", "grad_norm", "ntk"], "each once"


def test_a_finished_run_whose_measurements_are_there_is_skipped_without_torch(tmp_path):
    made = config(tmp_path, **TINY, diagnostics={"epochs": [0, 3], "images": 8})
    assert execution.execute(made).status == runs.FINISHED
    lost = values(tmp_path, **TINY, diagnostics={"epochs": [0, 2, 3], "images": 8})
    for nested in (values(tmp_path, **TINY, diagnostics={"epochs": [0, 3], "images": 8}), lost):
        code = (
            "import json, sys; from farkas_exp.launch import execution; from farkas_exp.config import parse\n"
            f"done = execution.execute(parse(json.loads({json.dumps(json.dumps(nested))})))\n"
            "print(done.note, 'torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith("False")
        assert ("not measured: epoch 2" in done.stdout) == (nested is lost)


def test_epochs_after_the_end_are_named(tmp_path, capsys):
    made = config(tmp_path, **TINY, diagnostics={"epochs": [7, 9], "images": 8})
    assert execution.execute(made).status == runs.FINISHED
    assert "not measured: epoch 7, 9, after the last one (3)" in capsys.readouterr().err
    assert "not measured: epoch 7, 9, after the last one (3)" in execution.execute(made).note


def test_what_is_measured_at_no_epoch_or_unknown_is_refused_also_of_a_finished_run(tmp_path):
    mistakes = {
        "[ntk,hessian] at no epoch; give diagnostics.epochs, such as [0,1]": {"measures": ["ntk", "hessian"]},
        "unknown 'hesian'; did you mean 'hessian'": {"measures": ["hesian"], "epochs": [3]},
    }
    for finished in (False, True):
        if finished:
            assert execution.execute(config(tmp_path / "runs", **TINY)).status == runs.FINISHED
        for words, asked in mistakes.items():
            with pytest.raises(UserError, match=re.escape(f"diagnostics.measures: {words}")):
                execution.execute(config(tmp_path / "runs", **TINY, diagnostics=asked))
            assert (tmp_path / "runs").exists() == finished, "nothing is left behind"


def test_other_data_are_not_measured(tmp_path):
    made = config(tmp_path, **TINY)
    assert execution.execute(made).status == runs.FINISHED
    environment = read_json(open_run(made).environment)
    environment["data"]["fingerprint"] = "other"
    runs.write_json(open_run(made).environment, environment)
    outcome = execution.execute(config(tmp_path, **TINY, diagnostics={"epochs": [0]}))
    assert outcome.status == outcomes.SKIPPED
    assert "not measured: epoch 0 (activity) (dataset: digits is not the data this run began with" in outcome.note
    assert not open_run(made).diagnostics.exists()


def test_a_failed_run_is_measured_at_its_beginning_and_before_its_last_epoch(tmp_path):
    failing = {**TINY, "init": {"name": "zero"}, "failure": {"epochs": 2}}
    made = config(tmp_path, **failing)
    assert execution.execute(made).status == runs.FAILED
    outcome = execution.execute(config(tmp_path, **failing, diagnostics={"epochs": [1], "images": 8}))
    assert outcome.note.endswith("measured now: epoch 1 (activity)")
    outcome = execution.execute(config(tmp_path, **failing, diagnostics={"epochs": [0, 1, 2], "images": 8}))
    assert "measured now: epoch 0 (activity); not measured: epoch 2 (activity)" in outcome.note


def test_an_interrupted_run_that_is_past_the_epoch_says_so_and_measures_its_beginning(
    tmp_path, monkeypatch, whole, capsys
):
    parts = config(tmp_path / "parts", **TINY)
    with monkeypatch.context() as patched:
        stop_after(5, patched)  # two steps an epoch: in the third one
        assert execution.execute(parts).status == runs.INTERRUPTED
    asked = config(tmp_path / "parts", **TINY, diagnostics=FULL)
    assert execution.execute(asked).status == runs.FINISHED
    rows = measured(asked)
    assert list(rows) == [0, 3]
    assert [rows[0], rows[3]] == [whole[0], whole[3]]
    assert "not measured: epoch 1 (activity, grad_norm, ntk), whose network is not kept" in capsys.readouterr().err


def stopped_after(function):
    def stopped(*arguments):
        found = function(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    return stopped


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_stop_beside_a_measurement_doubles_no_row(tmp_path, monkeypatch, whole, steps):
    """A stop after the measurement at an epoch and before the next step, again and again, then the rest."""
    parts = config(tmp_path / "parts", **TINY, diagnostics=FULL)
    for _ in range(2):
        with monkeypatch.context() as patched:
            if steps == 0:
                patched.setattr(measuring.Measuring, "catch_up", stopped_after(measuring.Measuring.catch_up))
            else:
                stop_after(steps, patched)
            assert execution.execute(parts).status == runs.INTERRUPTED
    assert execution.execute(parts).status == runs.FINISHED
    rows = read_rows(open_run(parts).diagnostics)
    assert rows == list(whole.values())


def test_a_kill_between_a_measurement_and_the_checkpoint_doubles_no_row(tmp_path, monkeypatch, whole):
    class Killed(BaseException):
        pass

    parts = config(tmp_path / "parts", **TINY, diagnostics=FULL)
    original = measuring.Measuring.at
    for epoch in (1, 3):
        with monkeypatch.context() as patched:

            def killed(self, at, model, epoch=epoch):
                original(self, at, model)
                if at == epoch:
                    raise Killed

            patched.setattr(measuring.Measuring, "at", killed)
            with pytest.raises(Killed):
                execution.execute(parts)
    assert execution.execute(parts).status == runs.FINISHED
    assert read_rows(open_run(parts).diagnostics) == list(whole.values())


def test_rows_of_older_versions_are_known_by_the_record(tmp_path, whole):
    made = config(tmp_path / "whole", **TINY, diagnostics=FULL)
    run = open_run(made)
    old = [{key: value for key, value in row.items() if key not in ("measures", "settings")} for row in whole.values()]
    write_text(run.diagnostics, "".join(json.dumps(row) + "\n" for row in old))
    assert Measurements(run, made.diagnostics).gaps(3) == []
    assert "measured" not in execution.execute(made).note


def test_training_images_that_were_not_evaluated_on_the_way_are_named(tmp_path, monkeypatch, capsys):
    asked = {"epochs": [], "train_eval": True}
    made, later = config(tmp_path, **TINY), config(tmp_path, **TINY, diagnostics=asked)
    stop_after(3, monkeypatch)
    assert execution.execute(made).status == runs.INTERRUPTED
    assert execution.execute(later).status == runs.FINISHED
    assert "not measured: train_eval of 1 epoch that went without it" in open_run(later).log.read_text()
    assert ["train_eval_error" in row for row in read_rows(open_run(later).metrics)] == [False, True, True]
    assert execution.execute(later).note.endswith("not measured: train_eval of 1 epoch that went without it")
    assert "not measured" not in execution.execute(made).note
