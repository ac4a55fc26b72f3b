"""The figures of runs in one small file."""

import json
import runpy
import sys

import pytest

from tests.made_runs import make_run, settings
from tests.paths import ROOT


def records(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["records.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "scripts" / "records.py"), run_name="__main__")
    return left.value.code


def test_a_line_is_a_run_with_its_figures_by_epoch_and_no_path(tmp_path, monkeypatch):
    runs_dir = tmp_path / "runs"
    rows = [{"epoch": 1, "train_loss": 3.2e-06, "train_error": 80.0, "test_loss": None, "test_error": 70.123456}]
    layers = [{"active": {"free": 0.5, "appended": 0.0}, "dead_points": 0.25}]
    measured = [{"epoch": 0, "layers": layers}]
    made = make_run(runs_dir, settings("farkasnet18", epochs=1), test_error=70.123456, rows=rows)
    (made / "diagnostics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in measured))
    make_run(runs_dir, settings("resnet18"), seed=3, state="failed", reason="loss is not finite", rows=[])
    assert records(monkeypatch, runs_dir, tmp_path / "kept.jsonl") == 0
    text = (tmp_path / "kept.jsonl").read_text()
    farkas, plain = map(json.loads, text.splitlines())
    assert str(tmp_path) not in text
    assert (farkas["seed"], farkas["state"], farkas["test_error"]) == (0, "finished", 70.1235)
    assert farkas["arm"].startswith("FarkasNet18")
    assert farkas["by_epoch"] == {
        "test_error": [70.1235], "test_loss": [None], "train_error": [80.0], "train_loss": [3.2e-06],
    }  # fmt: skip
    assert farkas["units"] == [{"epoch": 0, "free": 0.5, "appended": 0.0, "dead": 0.25, "silent": 1, "appending": 1}]
    assert (plain["seed"], plain["state"], plain["reason"]) == (3, "failed", "loss is not finite")


def test_what_cannot_be_read_or_written_is_one_line(tmp_path, monkeypatch, capsys):
    assert records(monkeypatch, tmp_path / "none", tmp_path / "kept.jsonl") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_left_out_is_named(tmp_path, monkeypatch, capsys):
    make_run(tmp_path, settings())
    (make_run(tmp_path, settings(), seed=1) / "run.json").write_text("{")
    assert records(monkeypatch, tmp_path, tmp_path / "kept.jsonl") == 0
    assert "1 not among the runs: " in capsys.readouterr().out
