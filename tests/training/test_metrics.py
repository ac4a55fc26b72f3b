"""Metrics by name: one function, from the step to the record, the console, W&B and the table."""

import pytest
import torch

from farkas_exp import runs
from farkas_exp.launch import execution
from farkas_exp.machine.errors import UserError
from farkas_exp.report.arms import arm_record, group_arms
from farkas_exp.runs import checkpoint, open_run, read_json, read_rows
from farkas_exp.runs.wandb import WandbMirror
from farkas_exp.training import metrics
from farkas_exp.training.evaluation import counted
from farkas_exp.training.trainer import TrainerState
from tests.configs import config

SMALL = {"model": {"name": "mlp", "depth": 1, "width": 8, "blocks": None, "widths": None}}


def test_a_metric_from_outside_is_one_function(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))
    mirrored = []
    monkeypatch.setattr(WandbMirror, "log", lambda self, row: mirrored.append(row))

    @metrics.metric("right", in_training=True)
    def right(logits, labels):
        return (logits.argmax(1) == labels).sum()

    @metrics.metric("largest_class", applies=lambda info: info.num_classes == 10)
    def largest_class(logits, labels):
        return (labels == 9).sum()

    @metrics.metric("elsewhere", applies=lambda info: info.num_classes == 3)
    def elsewhere(logits, labels):
        raise AssertionError

    made = config(tmp_path, epochs=2, **SMALL)
    assert execution.execute(made).status == runs.FINISHED
    run = open_run(made)
    rows, result = read_rows(run.metrics), read_json(run.result)
    assert len(rows) == len(mirrored) == 2
    for row, seen in zip(rows, mirrored, strict=True):
        assert row["train_right"] == pytest.approx(1 - row["train_error"] / 100)
        assert row["test_right"] == pytest.approx(1 - row["test_error"] / 100)
        assert row["test_largest_class"] == pytest.approx(0.1, abs=0.02)
        assert "train_largest_class" not in row
        assert "test_elsewhere" not in row
        assert seen["test_right"] == row["test_right"]
    assert result["test_right"] == rows[-1]["test_right"]
    assert f"test right {rows[-1]['test_right']:.4f}" in run.log.read_text()
    (arm,) = group_arms(runs.collect(tmp_path))
    assert arm_record(arm)["test_right_mean"] == rows[-1]["test_right"]
    with pytest.raises(ValueError, match="'right' is registered already"):
        metrics.metric("right")(right)


@pytest.mark.parametrize(
    ("given", "got"),
    [(lambda right: right, r"one of \(2,\)"), (lambda right: 1.0, "a float"), (lambda right: None, "a No")],
)
def test_a_metric_that_returns_no_sum_is_named(given, got):
    own = metrics.Metric("own", lambda logits, labels: given(logits.argmax(1) == labels), False, lambda info: True)
    with pytest.raises(UserError, match=rf"^metric own: it has to return its sum .* as a tensor \(\), not {got}"):
        counted(torch.zeros(()), [own], torch.zeros(2, 3), torch.zeros(2).long())


def test_the_top_five_errors_by_hand():
    logits = torch.tensor([[7.0, 6, 5, 4, 3, 2, 1]]).repeat(7, 1)
    assert float(metrics.missed_top5(logits, torch.arange(7))) == 2


def test_the_sums_of_an_interrupted_epoch_have_names_also_those_of_an_older_checkpoint(tmp_path, monkeypatch):
    from tests.stopping import stop_after

    made = config(tmp_path, epochs=2, **SMALL)
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        assert execution.execute(made).status == runs.INTERRUPTED
    run = open_run(made)
    saved = checkpoint.load(run)
    assert list(saved["state"]["totals"]) == ["loss", "error"]
    older = {**saved, "state": {**saved["state"], "totals": list(saved["state"]["totals"].values())}}
    checkpoint.save(run, {key: value for key, value in older.items() if key != "schema"})
    assert execution.execute(made).status == runs.FINISHED
    whole = config(tmp_path / "whole", epochs=2, **SMALL)
    assert execution.execute(whole).status == runs.FINISHED
    losses = [[row["train_loss"] for row in read_rows(open_run(each).metrics)] for each in (made, whole)]
    assert losses[0] == losses[1]
    assert TrainerState().totals == {}
