"""What Weights & Biases is told about whole runs: the same id after every resumption, and the outcome as it is."""

import sys
import time
from pathlib import Path

import pytest

from farkas_exp import runs
from farkas_exp.launch import execution
from farkas_exp.runs import open_run, read_json, read_rows
from farkas_exp.training.trainer import Trainer
from tests.configs import config
from tests.stopping import stop_after
from tests.wandb_file import read_wandb_file
from tests.wandb_server import closed_port

pytestmark = pytest.mark.usefixtures("private_home")

OFFLINE = {"mode": "offline"}


def recorded(run):
    """What each stretch of the run has recorded, in order; the service writes its files to their end as it ends."""
    sys.modules["wandb"].teardown()
    return [read_wandb_file(path) for path in sorted(run.path.glob("wandb/offline-run-*/run-*.wandb"))]


def test_an_interrupted_run_is_not_finished_and_its_continuation_has_the_same_id(tmp_path, monkeypatch):
    made = config(tmp_path, wandb=OFFLINE)
    with monkeypatch.context() as patched:
        stop_after(8, patched)
        assert execution.execute(made).status == runs.INTERRUPTED
    time.sleep(1.1)  # the name of W&B's folder has the second in it
    assert execution.execute(made).status == runs.FINISHED
    first, second = recorded(open_run(made))
    assert first["id"] == second["id"] == read_json(open_run(made).record)["wandb_id"]
    assert first["exit_code"] not in (0, None)
    assert second["exit_code"] == 0
    assert [row["_step"] for part in (first, second) for row in part["history"]] == [1, 2, 3]
    assert second["summary"]["status"] == "finished"


def test_a_run_that_failed_to_train_is_failed(tmp_path):
    made = config(tmp_path, wandb=OFFLINE, lr={"value": 1e30}, normalization={"name": "none"})
    assert execution.execute(made).status == runs.FAILED
    (found,) = recorded(open_run(made))
    assert found["exit_code"] == 1
    assert (found["summary"]["status"], found["summary"]["reason"]) == ("failed", "loss is not finite")


def test_a_crashed_run_is_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "evaluate", lambda self, epoch: 1 / 0)
    made = config(tmp_path, wandb=OFFLINE)
    assert execution.execute(made).status == runs.CRASHED
    (found,) = recorded(open_run(made))
    assert found["exit_code"] == 1


def test_online_without_a_server_the_run_goes_on_whole_with_one_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    for name in ("INIT_TIMEOUT", "FINISH_TIMEOUT"):  # a test does not wait as long for a server as a run does
        monkeypatch.setattr(f"farkas_exp.runs.wandb.{name}", 2.0)
    made = config(tmp_path, wandb={"mode": "online"})
    assert execution.execute(made).status == runs.FINISHED
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("wandb: W&B is not reachable, going on offline (")
    assert "; upload it later with: wandb sync " in line
    assert Path(line.split("wandb sync ")[1]).parent == open_run(made).path / "wandb"
    assert [row["epoch"] for row in read_rows(open_run(made).metrics)] == [1, 2, 3]
    (found,) = recorded(open_run(made))
    assert (len(found["history"]), found["exit_code"]) == (3, 0)
