"""Runs that torchrun starts: the same numbers, and checkpoints whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from farkas_exp import runs
from farkas_exp.runs import read_rows
from tests.paths import ROOT
from tests.shared_runs import SMALL, record, run_of
from tests.stopping import assert_same

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]


def torchrun(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TORCHRUN, "-m", "farkas_exp", *SMALL, *arguments], env=environment, cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(process):
    out, _ = process.communicate(timeout=300)
    return process.returncode == 0 and "finished: " in out


def wait_for_epoch(process, runs_dir, epoch):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(len(read_rows(path)) >= epoch for path in runs_dir.glob("*/*/metrics.jsonl")):
            return
        time.sleep(0.01)
    pytest.fail(f"waited in vain\n{process.communicate(timeout=10)[0]}")


@pytest.mark.slow  # that several processes train one run: test_distributed
def test_torchrun_trains_one_run(tmp_path, undisturbed):
    out, _ = (process := torchrun(f"runs_dir={tmp_path}")).communicate(timeout=300)
    assert process.returncode == 0, out
    assert out.count("finished: ") == 1
    assert_same(run_of(undisturbed[0]), run_of(tmp_path))


@pytest.mark.slow
def test_a_killed_torchrun_goes_on_bitwise(tmp_path):
    whole, killed = ["epochs=40", f"runs_dir={tmp_path / 'a'}"], ["epochs=40", f"runs_dir={tmp_path / 'b'}"]
    assert finished(torchrun(*whole))
    process = torchrun(*killed)
    wait_for_epoch(process, tmp_path / "b", 4)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    for pid in (process.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=300)
    assert record(tmp_path / "b").state == runs.INTERRUPTED
    assert finished(torchrun(*killed))
    assert_same(run_of(tmp_path / "a"), run_of(tmp_path / "b"))


@pytest.mark.slow
def test_sigterm_to_torchrun_stops_every_process_with_a_checkpoint(tmp_path):
    process = torchrun("epochs=5000", f"runs_dir={tmp_path}")
    wait_for_epoch(process, tmp_path, 3)
    process.terminate()
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "interrupted: " in out
    assert record(tmp_path).progress["state"] == runs.INTERRUPTED
    saved = torch.load(run_of(tmp_path).checkpoint, weights_only=True)
    assert (saved["state"]["epoch"], len(saved["ranks"])) >= (3, 2)


@pytest.mark.slow
def test_the_processes_of_a_killed_torchrun_leave_with_a_checkpoint(tmp_path):
    process = torchrun("epochs=50000", f"runs_dir={tmp_path}")
    wait_for_epoch(process, tmp_path, 3)
    process.kill()
    process.communicate(timeout=300)  # until the last process that could print has ended
    assert record(tmp_path).progress["state"] == runs.INTERRUPTED
    assert not run_of(tmp_path).is_locked()


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_said_once(tmp_path):
    out, _ = (process := torchrun("batch_size=41", f"runs_dir={tmp_path}")).communicate(timeout=300)
    assert process.returncode != 0
    assert out.count("error: batch_size: 41 cannot be shared equally") == 1
