"""Sweeps that are spread over processes: the same runs as one after the other, whatever happens to a process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from farkas_exp import runs
from farkas_exp.cli import config_dir, main
from farkas_exp.launchers.local_parallel import LocalParallelLauncher, visible_gpus
from farkas_exp.launchers.slurm import pack, unpack
from farkas_exp.runs import RunDirectory, collect

ROOT = Path(__file__).parent.parent
SMALL = [
    "model=farkasnet18", "model.blocks=[1]", "model.widths=[4]", "dataset=digits", "dataset.train_limit=200",
    "batch_size=40", "device=cpu", "wandb.mode=disabled", "failure.epochs=0",
]  # fmt: skip
PARALLEL = ["hydra/launcher=local_parallel", "hydra.launcher.threads=1"]


def weights(record):
    return torch.load(RunDirectory(record.path).checkpoint, weights_only=True)["model"]


def test_two_processes_give_the_same_numbers_as_one_after_the_other(tmp_path, monkeypatch, capfd):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["-m", *SMALL, "epochs=2", "seed=0,1,2", "progress=none", f"runs_dir={tmp_path / 'one'}"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert main(["-m", *SMALL, *PARALLEL, "epochs=2", "seed=0,1,2", f"runs_dir={tmp_path / 'two'}"]) == 0
    assert "3 runs in" in capfd.readouterr().out
    first, second = collect(tmp_path / "one"), collect(tmp_path / "two")
    assert [(r.identity, r.seed, r.state) for r in first] == [(r.identity, r.seed, r.state) for r in second]
    for one, two in zip(first, second, strict=True):
        ours, theirs = weights(one), weights(two)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert runs.read_json(RunDirectory(two.path).environment)["threads"] == 1


def start(tmp_path, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "farkas_exp", "-m", *SMALL, *PARALLEL, *arguments, f"runs_dir={tmp_path}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail("waited in vain")


def test_a_process_that_dies_takes_only_its_own_run_with_it(tmp_path):
    process = start(tmp_path, "epochs=400,3", "seed=0", "hydra.launcher.n_jobs=1")
    state = wait_for(lambda: next((s for p in tmp_path.glob("*e400*/*/state.json") if (s := runs.read_json(p))), None))
    os.kill(state["pid"], signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the process died (SIGKILL)" in out
    assert "1 finished, 1 crashed" in out
    assert {r.epochs: r.state for r in collect(tmp_path)} == {400: runs.INTERRUPTED, 3: runs.FINISHED}


def test_a_request_to_stop_reaches_every_process_and_leaves_checkpoints(tmp_path):
    process = start(tmp_path, "epochs=5000", "seed=0,1,2", "hydra.launcher.n_jobs=2")
    wait_for(lambda: len(list(tmp_path.glob("*/*/metrics.jsonl"))) == 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert "To go on:" in out
    records = collect(tmp_path)
    assert [record.state for record in records] == [runs.INTERRUPTED] * 2
    assert all(RunDirectory(record.path).checkpoint.exists() for record in records)


def test_gpus_are_taken_in_turn_and_cores_are_shared(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    launcher = LocalParallelLauncher(n_jobs=3, threads=2)
    assert [launcher._environment(number)["CUDA_VISIBLE_DEVICES"] for number in range(3)] == ["3", "5", "3"]
    assert launcher._environment(0)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    assert LocalParallelLauncher(n_jobs=10**6).threads == 1


def test_runs_share_jobs_in_order_with_their_numbers():
    overrides = [[f"seed={seed}", "x='a b'"] for seed in range(5)]
    jobs = pack(overrides, 2, 10)
    assert [len(job) for job in jobs] == [2, 2, 1]
    assert [run for job in jobs for run in unpack(job)] == [(10 + n, run) for n, run in enumerate(overrides)]


@pytest.mark.parametrize("name", ["local_parallel", "slurm"])
def test_launcher_configs_compose(name, capsys):
    assert main([f"hydra/launcher={name}", "--cfg", "hydra"]) == 0
    composed = yaml.safe_load(capsys.readouterr().out)["hydra"]["launcher"]
    written = yaml.safe_load((Path(config_dir()) / "hydra" / "launcher" / f"{name}.yaml").read_text())
    assert composed["_target_"] == written["_target_"]


@pytest.mark.filterwarnings("default")  # optuna 2 is older than what it imports
def test_a_search_needs_a_held_out_part_and_minimizes_its_error(tmp_path, capfd):
    search = ["-m", "hydra/sweeper=tpe", "hydra.sweeper.n_trials=2", *SMALL, "epochs=1", "progress=none",
              "lr.value=tag(log,interval(0.01,0.1))", f"runs_dir={tmp_path}"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(search)
    assert stopped.value.code == 2
    assert "dataset.validation: a search needs a part of the training set held out" in capfd.readouterr().err
    assert collect(tmp_path) == []
    assert main([*search, "dataset.validation=0.2"]) == 0
    best = min(record.result["test_error"] for record in collect(tmp_path))
    results = next(tmp_path.glob(".sweeps/*/optimization_results.yaml"))
    assert yaml.safe_load(results.read_text())["best_value"] == pytest.approx(best)
