"""Sweeps on a real Slurm: whatever it does to the jobs, the runs end with the numbers of an undisturbed sweep."""

import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from farkas_exp import runs
from farkas_exp.runs import RunDirectory, collect
from tests.paths import ROOT

pytestmark = pytest.mark.slurm
SMALL = [
    "model=farkasnet18", "model.blocks=[1,1]", "model.widths=[4,8]", "normalization=batch", "dataset=digits",
    "dataset.train_limit=200", "augmentation=cutout", "augmentation.cutout=2", "batch_size=40", "device=cpu",
    "wandb.mode=disabled", "failure.epochs=0", "checkpoint.every_epochs=5",
]  # fmt: skip
LAUNCHER = [
    "-m", "hydra/launcher=slurm", "hydra.launcher.partition=low", "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2",
]  # fmt: skip
EPOCHS = 60
LONG_SECONDS = 80
"""Of the run that times out: its signal comes 45 to 75 seconds after its job began, when Slurm, which looks every 30
seconds, finds that the job has no more than `signal_delay_s` and these 30 left."""


class Sweep:
    """A sweep on the cluster, in a process of its own, and what its owner and Slurm's can do to it."""

    def __init__(self, variables, runs_dir, *arguments):
        self.variables = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.runs_dir = runs_dir
        command = [sys.executable, "-m", "farkas_exp", *LAUNCHER, *SMALL, f"runs_dir={runs_dir}", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def run(self, *command):
        return subprocess.run(command, env=self.variables, check=True, capture_output=True, text=True).stdout

    def training(self, seed, epochs=3):
        """Wait until the run has trained so many epochs; the id of its Slurm job."""
        self.until(lambda: (s := self.state(seed)) and s["state"] == "running" and s["epoch"] >= epochs)
        text = next(p for p in self.logs() if re.search(rf"\bseed[ =]{seed}\]", p.read_text()))
        return re.match(r"(\d+(?:_\d+)?)_0_log", text.name)[1]

    def logs(self):
        return sorted(self.runs_dir.glob(".sweeps/*/.submitit/*/*.out"))

    def log(self):
        return "\n".join(path.read_text() for path in self.logs())

    def state(self, seed):
        found = list(self.runs_dir.glob(f"*/seed_{seed}/state.json"))
        return runs.read_json(found[0]) if found else None

    def until(self, condition, seconds=240):
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"waited in vain\n{self.process.communicate(timeout=10)[0]}\n{self.log()}")
            time.sleep(0.1)

    def restarts(self, job):
        return int(re.search(r"Restarts=(\d+)", self.run("scontrol", "--oneliner", "show", "job", job))[1])

    def finish(self, status=0, seconds=500):
        out, _ = self.process.communicate(timeout=seconds)
        print(out)
        assert self.process.returncode == status, out + self.log()
        return out


def train_here(runs_dir, *arguments):
    """Train the same runs on this machine, one after the other."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "farkas_exp", *SMALL, f"runs_dir={runs_dir}", "progress=none", *arguments]
    subprocess.run(command, cwd=ROOT, env=variables, check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run directories of the undisturbed sweep."""
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    train_here(runs_dir, "-m", f"epochs={EPOCHS}", "seed=0,1,2,3")
    return runs_dir


def assert_equal_to(undisturbed, runs_dir):
    """Same weights bitwise, same metrics, every epoch once, nothing left behind."""
    expected = {(record.identity, record.seed): record for record in collect(undisturbed)}
    for record in collect(runs_dir):
        other = expected[record.identity, record.seed]
        assert record.state == runs.FINISHED
        ours, theirs = (
            torch.load(RunDirectory(r.path).checkpoint, weights_only=True)["model"] for r in (record, other)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        deciding = ("epoch", "lr", "train_loss", "train_error", "test_loss", "test_error")
        rows = [[{key: row[key] for key in deciding} for row in r.metrics()] for r in (record, other)]
        assert rows[0] == rows[1]
        assert [row["epoch"] for row in rows[0]] == list(range(1, record.epochs + 1))
    assert not list(runs_dir.rglob("*.tmp"))


def test_a_sweep_of_four_runs_in_two_jobs(slurm, tmp_path, undisturbed):
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=0,1,2,3", "hydra.launcher.runs_per_job=2") as sweep:
        out = sweep.finish()
    assert "4 runs in 2 jobs" in out
    assert "4 finished" in out
    assert_equal_to(undisturbed, tmp_path)
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=0,1,2,3") as again:
        out = again.finish(seconds=60)
    assert "Slurm job" not in out
    assert "4 skipped" in out


def test_a_preempted_job_is_requeued_and_goes_on(slurm, tmp_path, undisturbed):
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=0") as sweep:
        job = sweep.training(seed=0)
        sweep.run("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
        sweep.until(lambda: sweep.restarts(job) == 1)
        assert "1 finished" in sweep.finish()
        assert re.search(r"stopped by SIG(USR2|TERM) in epoch", sweep.log())
        assert "asking Slurm to requeue this job" in sweep.log()
    assert_equal_to(undisturbed, tmp_path)


def test_a_job_out_of_time_is_requeued_and_goes_on(slurm, tmp_path, undisturbed):
    epoch_seconds = sum(record.result["seconds"] for record in collect(undisturbed)) / (4 * EPOCHS)
    epochs = math.ceil(LONG_SECONDS / epoch_seconds)
    train_here(undisturbed, f"epochs={epochs}")
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=45"]
    with Sweep(slurm, tmp_path, f"epochs={epochs}", "seed=0", *limit) as sweep:
        job = sweep.training(seed=0)
        assert "1 finished" in sweep.finish(seconds=1500)
        assert sweep.restarts(job) >= 1
        assert "SIGUSR2: asking Slurm to requeue this job" in sweep.log()
    assert_equal_to(undisturbed, tmp_path)


def test_a_job_out_of_time_too_often_is_left_to_the_next_command(slurm, tmp_path, undisturbed):
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=1", "hydra.launcher.max_num_timeout=0",
               "hydra.launcher.timeout_min=5") as sweep:  # fmt: skip
        job = sweep.training(seed=1)
        sweep.run("scancel", "--signal=USR2", job)
        out = sweep.finish(status=75)
        assert "1 interrupted" in out
        assert "To go on:" in out
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=1") as again:
        assert "1 finished" in again.finish()
    assert_equal_to(undisturbed, tmp_path)


def test_a_killed_job_is_submitted_again(slurm, tmp_path, undisturbed):
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=2,3", "hydra.launcher.runs_per_job=2") as sweep:
        sweep.training(seed=2, epochs=8)
        os.kill(sweep.state(2)["pid"], signal.SIGKILL)
        out = sweep.finish()
    assert "2 finished" in out
    assert len(re.findall(r"Slurm job \d+: 2 runs in 1 jobs", out)) == 2
    assert_equal_to(undisturbed, tmp_path)


def test_a_second_signal_does_not_disturb_the_first(slurm, tmp_path, undisturbed):
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=3") as sweep:
        job = sweep.training(seed=3)
        for _ in range(3):
            sweep.run("scancel", "--signal=USR2", job)
        sweep.until(lambda: sweep.restarts(job) == 1)
        assert "1 finished" in sweep.finish()
        assert sweep.log().count("asking Slurm to requeue") == 1
    assert_equal_to(undisturbed, tmp_path)


def test_a_cancelled_job_writes_its_checkpoint_and_is_not_requeued(slurm, tmp_path, undisturbed):
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=0,1", "hydra.launcher.array_parallelism=1") as sweep:
        job = sweep.training(seed=0)
        sweep.run("scancel", job.split("_")[0])
        out = sweep.finish(status=75)
        assert sweep.restarts(job) == 0
        assert "1 interrupted, 1 without outcome" in out
        assert "ended in state CANCELLED" in out
    with Sweep(slurm, tmp_path, f"epochs={EPOCHS}", "seed=0,1") as again:
        assert "2 finished" in again.finish()
    assert_equal_to(undisturbed, tmp_path)


def test_what_slurm_refuses_is_one_line(slurm, tmp_path):
    with Sweep(slurm, tmp_path, "epochs=1", "seed=0,1", "hydra.launcher.partition=nowhere") as sweep:
        out = sweep.finish(status=2, seconds=60)
    assert re.fullmatch(r"0 of 2 runs done\nerror: hydra\.launcher: .*[Ii]nvalid partition.*\n", out)
