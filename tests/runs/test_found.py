"""`farkas_exp.runs(folder)`: runs as a sequence, filtered and as tables."""

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

import farkas_exp
from farkas_exp.machine.errors import UserError
from tests.made_runs import make_run, settings


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, settings(epochs=3), seed=seed, test_error=12.0 + seed)
        make_run(tmp_path, settings("farkasnet18", epochs=3, aggregation__margin=0.5), seed=seed, test_error=8.0)
    make_run(tmp_path, settings("farkasnet18", epochs=3, lr__value=0.5), state="interrupted", epoch=1)
    return tmp_path


def test_the_room_can_be_called_and_stays_a_room(folder):
    assert isinstance(farkas_exp.runs, ModuleType)
    assert farkas_exp.runs.FINISHED == "finished"
    found = farkas_exp.runs(folder)
    assert repr(found) == "<5 runs: 4 finished, 1 interrupted>"
    assert [record.seed for record in found] == [record.seed for record in farkas_exp.runs.collect(folder)]


def test_it_needs_no_pytorch_nor_an_import_of_its_own(folder):
    code = (
        f"import sys, farkas_exp; assert len(farkas_exp.runs({str(folder)!r})) == 5; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_are_chosen_by_state_and_by_any_key_as_on_the_command_line(folder):
    assert len(farkas_exp.runs(folder, model="farkasnet18")) == 3
    assert len(farkas_exp.runs(folder, model=["resnet18", "farkasnet18"], seed=[1])) == 2
    found = farkas_exp.runs(folder, state="finished").where(**{"aggregation.margin": 0.5})
    assert [record.seed for record in found] == [0, 1]
    assert len(found[1:]) == 1
    assert repr(farkas_exp.runs(folder, lr=7)) == "<0 runs>"
    assert len(farkas_exp.runs(folder, seed=np.arange(1, 5))) == len(farkas_exp.runs(folder, seed=(1, 2, 3, 4))) > 0
    assert (
        len(farkas_exp.runs(folder, seed=(seed for seed in [1]))) == len(farkas_exp.runs(folder, seed=np.int64(1))) > 0
    )
    assert len(farkas_exp.runs(folder, **{"diagnostics.epochs": []})) == 5  # a setting that is a list
    for where, expected in (({"modle": "x"}, "modle: unknown 'modle'; did you mean 'model'?"),
                            ({"state": "done"}, "state: unknown 'done'")):  # fmt: skip
        with pytest.raises(UserError, match="^" + expected.replace("?", r"\?")):
            farkas_exp.runs(folder, **where)
    with pytest.raises(UserError, match="runs_dir: no folder"):
        farkas_exp.runs(folder / "none")


@pytest.fixture
def rows(monkeypatch):
    """Tables as they are without pandas."""
    monkeypatch.setitem(sys.modules, "pandas", None)


def test_a_row_a_run_has_the_settings_that_differ_and_the_result(folder, rows):
    found = farkas_exp.runs(folder)
    table = {row["path"]: row for row in found.results}
    (plain,) = (row for row in table.values() if row["model.name"] == "resnet18" and row["seed"] == 1)
    assert plain["test_error"] == 13.0
    assert plain["lr.value"] == 0.01
    assert "aggregation.margin" not in plain  # it has no effect there
    (stopped,) = (row for row in table.values() if row["state"] == "interrupted")
    assert (stopped["lr.value"], stopped["aggregation.margin"], stopped["epoch"]) == (0.5, 0.0, 1)
    assert "optimizer.momentum" not in plain  # the same everywhere


def test_a_row_an_epoch_tells_setting_and_figure_apart(folder, rows):
    found = farkas_exp.runs(folder)
    assert len(found.metrics) == 4 * 3 + 1
    row = next(row for row in found.metrics if row["lr.value"] == 0.5)
    assert (row["epoch"], row["lr"]) == (1, 0.1)


def test_a_data_frame_where_there_is_pandas(folder):
    pandas = pytest.importorskip("pandas")
    found = farkas_exp.runs(folder)
    assert isinstance(found.results, pandas.DataFrame)
    assert found.results.groupby("model.name")["test_error"].mean()["resnet18"] == 12.5


def test_what_cannot_be_read_is_told(folder):
    next(folder.glob("*/seed_1/run.json")).write_text("{")
    found = farkas_exp.runs(folder)
    assert repr(found).endswith(", 1 unreadable>")
    assert "run.json is damaged" in str(found.unreadable[0])
