"""Sweeps that are spread over processes: the same runs as one after the other, whatever happens to a process."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
import torch
import yaml

from farkas_exp import runs
from farkas_exp.config import parse
from farkas_exp.config.store import config_dir
from farkas_exp.launch import jobs, local_parallel, outcomes, planned
from farkas_exp.launch.cli import main
from farkas_exp.launch.local_parallel import plan, visible_gpus
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.signals import PREEMPTION, StopRequest
from farkas_exp.runs import RunDirectory, best, collect, read_json, read_starts
from tests.made_runs import make_run, settings
from tests.paths import ROOT
from tests.small_command import ONE_BLOCK
from tests.stopping import assert_same

PARALLEL = ["hydra/launcher=local_parallel", "hydra.launcher.n_jobs=2", "hydra.launcher.threads=1"]


def start(*arguments, module="farkas_exp", **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *ONE_BLOCK, *arguments], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def until(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.02)
    return pytest.fail(f"waited in vain\n{process.communicate(timeout=10)[0]}")


def beyond_epoch_2(runs_dir):
    """The state of a run of more than two epochs that is well on its way, or None."""
    return next((state for state in map(read_json, runs_dir.glob("*/*/state.json")) if state["epoch"] > 2), None)


def assert_as_one_after_the_other(tmp_path, runs_dir, epochs):
    """Compare with the runs of the same sweep in a process of one thread."""
    sequential = tmp_path / "sequential"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["-m", *ONE_BLOCK, f"epochs={epochs}", "seed=0,1", "progress=none", f"runs_dir={sequential}"]) == 0
    finally:
        torch.set_num_threads(threads)
    expected = {(record.identity, record.seed): record for record in collect(sequential)}
    assert collect(runs_dir)
    for record in collect(runs_dir):
        assert_same(RunDirectory(expected[record.identity, record.seed].path), RunDirectory(record.path))


def test_parallel_processes_give_the_numbers_of_runs_one_after_the_other(tmp_path, capsys):
    sweep = ["-m", *PARALLEL, "epochs=2", "seed=0,1", f"runs_dir={tmp_path / 'runs'}"]
    out, _ = start(*sweep).communicate(timeout=200)
    assert "2 finished" in out
    assert_as_one_after_the_other(tmp_path, tmp_path / "runs", epochs=2)
    assert {read_starts(RunDirectory(record.path))[-1]["threads"] for record in collect(tmp_path / "runs")} == {1}
    assert main([*sweep, *ONE_BLOCK]) == 0
    assert "2 skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_process_takes_no_other_run_with_it_and_is_started_again(tmp_path):
    one = ["hydra.launcher.n_jobs=1", "hydra.launcher.runs_per_job=2"]
    process = start("-m", *PARALLEL, *one, "epochs=40", "seed=0,1",
                    f"runs_dir={tmp_path / 'runs'}")  # fmt: skip
    state = until(lambda: beyond_epoch_2(tmp_path / "runs"), process)
    os.kill(state["pid"], signal.SIGKILL)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert "2 finished" in out
    assert_as_one_after_the_other(tmp_path, tmp_path / "runs", epochs=40)


@pytest.mark.slow
def test_a_process_killed_too_often_is_told_and_the_same_command_goes_on(tmp_path):
    arguments = ["-m", *PARALLEL, "hydra.launcher.retries=0", "epochs=40,2", "seed=0", f"runs_dir={tmp_path / 'runs'}"]
    process = start(*arguments)
    state = until(lambda: beyond_epoch_2(tmp_path / "runs"), process)
    os.kill(state["pid"], signal.SIGKILL)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == outcomes.TO_BE_CONTINUED
    assert "1 finished, 1 without outcome" in out
    assert "ended by SIGKILL" in out
    assert "To go on: " in out
    assert "1 finished" in start(*arguments).communicate(timeout=200)[0]
    assert_as_one_after_the_other(tmp_path, tmp_path / "runs", epochs="2,40")


def assert_stopped_with_a_checkpoint(runs_dir, count):
    records = collect(runs_dir)
    assert [record.progress["state"] for record in records] == [runs.INTERRUPTED] * count
    assert all(RunDirectory(record.path).checkpoint.exists() for record in records)
    assert not any(RunDirectory(record.path).is_locked() for record in records)


@pytest.mark.parametrize(
    ("number", "send"),
    [
        (signal.SIGTERM, os.killpg),  # as `timeout` and a cluster do: also to the server of the jobs
        *(
            pytest.param(number, os.kill, marks=pytest.mark.slow)
            for number in (signal.SIGTERM, PREEMPTION, signal.SIGINT)
        ),
    ],
)
def test_a_signal_to_the_launcher_or_its_process_group_stops_every_run_with_a_checkpoint(tmp_path, number, send):
    process = start("-m", *PARALLEL, "epochs=5000", "seed=0,1,2", f"runs_dir={tmp_path}", start_new_session=True)
    until(lambda: len(list(tmp_path.glob("*/*/metrics.jsonl"))) == 2, process)
    send(process.pid, number)
    out, _ = process.communicate(timeout=300)  # until the last process that could print has ended
    assert process.returncode == outcomes.TO_BE_CONTINUED, out
    assert "2 interrupted" in out
    assert "To go on:" in out
    assert "killed" not in out
    assert_stopped_with_a_checkpoint(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "server"])
def test_jobs_of_a_killed_launcher_or_server_write_their_checkpoints(tmp_path, victim):
    process = start("-m", *PARALLEL, "epochs=5000", "seed=0,1", f"runs_dir={tmp_path}", start_new_session=True)
    until(lambda: len(list(tmp_path.glob("*/*/metrics.jsonl"))) == 2, process)
    job = read_json(next(tmp_path.glob("*/*/state.json")))["pid"]
    server = int(Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[1])
    assert server != process.pid
    os.kill(process.pid if victim == "launcher" else server, signal.SIGKILL)
    out, _ = process.communicate(timeout=300)  # until the last process that could print has ended
    assert_stopped_with_a_checkpoint(tmp_path, 2)
    if victim == "server":
        assert process.returncode == outcomes.TO_BE_CONTINUED, out
        assert "2 interrupted" in out


@pytest.mark.slow
def test_a_crash_with_fail_fast_begins_nothing_more(tmp_path):
    arguments = ["-m", *PARALLEL, "hydra.launcher.n_jobs=1", "fail_fast=true", "dataset.train_limit=100000,200",
                 "epochs=1", f"runs_dir={tmp_path}"]  # fmt: skip
    process = start(*arguments)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "The sweep ended early: fail_fast=true" in out
    assert collect(tmp_path) == []


def test_every_run_is_in_one_job_in_order_with_its_number():
    all_runs = jobs.numbered([[f"seed={seed}"] for seed in range(5)], 10)
    groups = jobs.groups(all_runs, 2)
    assert [len(group) for group in groups] == [2, 2, 1]
    assert [run for group in groups for run in group] == all_runs
    assert [run.number for run in all_runs] == [10, 11, 12, 13, 14]


def test_jobs_take_devices_in_turn_and_share_the_cores(monkeypatch):
    free = {"n_jobs": None, "devices": None, "threads": None}
    assert plan(free, [], cores=8) == plan({**free, "n_jobs": 8}, [], cores=8)
    assert plan(free, [], cores=8).threads == 1
    assert plan({**free, "n_jobs": 2}, [], cores=8).threads == 4
    assert plan({**free, "n_jobs": 100}, [], cores=8).threads == 1
    on_gpus = plan({**free, "n_jobs": 5}, ["3", "5"], cores=8)
    assert [on_gpus.device(slot) for slot in range(5)] == ["3", "5", "3", "5", "3"]
    assert plan(free, ["3", "5"], cores=8).n_jobs == 2
    assert plan({**free, "devices": [7]}, ["3", "5"], cores=8).device(4) == "7"
    assert plan({**free, "devices": []}, ["3"], cores=8).device(0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("given", "asked", "sees_a_gpu", "trains"),
    [("1", "auto", False, False), ("1", "auto", True, True), (None, "auto", False, True), ("1", "cpu", False, True)],
)
def test_a_job_with_a_device_never_trains_on_the_cpu_unasked(monkeypatch, given, asked, sees_a_gpu, trains):
    """A driver may list GPUs that a container hides."""
    trained, refused = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_a_gpu)
    monkeypatch.setattr(jobs, "run_group", lambda *arguments, **options: trained.append(arguments))
    monkeypatch.setattr(jobs, "mark_open", lambda work, group, note, status: refused.append((note, status)))
    local_parallel._train(SimpleNamespace(config={"device": asked}), (), given, StopRequest())
    assert bool(trained) == trains
    if not trains:
        ((note, status),) = refused
        assert status == outcomes.REFUSED
        assert note.startswith("hydra.launcher.devices: PyTorch sees no GPU with CUDA_VISIBLE_DEVICES=1")


def in_process(monkeypatch):
    """A job of the local launcher, in this process."""
    for module, name in ((local_parallel.signals, "take_over"), (local_parallel, "_stop_with_parents")):
        monkeypatch.setattr(module, name, lambda: None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    local_parallel._work(cloudpickle.dumps(None), (), None, torch.get_num_threads())


def in_slurm(monkeypatch):
    pytest.importorskip("farkas_exp.launch.slurm")._Job(None, ())()


@pytest.mark.parametrize("job", [in_process, in_slurm])
@pytest.mark.parametrize("full", [False, True])
def test_a_job_whose_outcome_cannot_be_written_says_so_by_its_status(tmp_path, monkeypatch, job, full):
    def train(*arguments, **options):
        outcomes.record_outcome(tmp_path / "a" if full else tmp_path, 0, [], outcomes.Outcome(runs.FINISHED, "a"))

    (tmp_path / "a").touch()  # no folder
    monkeypatch.setattr(outcomes, "_unwritten", {})
    monkeypatch.setattr(jobs, "run_group", train)
    if not full:
        return job(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        job(monkeypatch)
    assert ended.value.code == outcomes.UNWRITTEN


@pytest.mark.parametrize("wrong", [{"n_jobs": 0}, {"threads": -1}, {"n_jobs": "two"}, {"devices": 3}])
def test_a_launcher_setting_out_of_range_names_its_key(wrong):
    with pytest.raises(UserError, match=rf"hydra\.launcher\.{next(iter(wrong))}: expected"):
        plan({"n_jobs": None, "devices": None, "threads": None, **wrong}, [], cores=2)


def test_a_setting_that_the_launcher_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"^hydra\.launcher: unknown 'n_job'; did you mean 'n_jobs'"):
        plan({"n_jobs": None, "devices": None, "threads": None, "n_job": 2}, [], cores=2)


@pytest.mark.parametrize(
    ("arguments", "launcher"),
    [
        (["experiment=demo"], "LocalParallelLauncher"),
        (["experiment=demo", "hydra/launcher=sequential"], "SequentialLauncher"),
        (["experiment=table1"], "SequentialLauncher"),
        ([], "SequentialLauncher"),
    ],
)
def test_an_experiment_chooses_its_launcher_and_the_command_line_another(arguments, launcher, capsys):
    assert main([*arguments, "--cfg", "hydra"]) == 0
    composed = yaml.safe_load(capsys.readouterr().out)["hydra"]
    assert composed["launcher"]["_target_"].endswith(f".{launcher}")
    assert composed["sweeper"]["_target_"].endswith(".GridSweeper")


@pytest.mark.parametrize("name", ["local_parallel", "slurm"])
def test_launcher_configs_compose_with_the_values_of_their_files(name, capsys):
    assert main([f"hydra/launcher={name}", "hydra.launcher.runs_per_job=7", "--cfg", "hydra"]) == 0
    composed = yaml.safe_load(capsys.readouterr().out)["hydra"]["launcher"]
    written = yaml.safe_load((Path(config_dir()) / "hydra" / "launcher" / f"{name}.yaml").read_text())
    assert composed == {**written, "runs_per_job": 7}


@pytest.mark.parametrize("refused", [None, "sbatch: error: invalid partition specified: nowhere"])
def test_slurm_that_is_not_there_or_refuses_a_sweep_is_one_line(refused, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("srun", "sbatch") if refused else ():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{refused}' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    assert main(["-m", "hydra/launcher=slurm", *ONE_BLOCK, f"runs_dir={tmp_path / 'runs'}", "seed=0,1"]) == 2
    shown = capfd.readouterr()
    lines = [line for line in shown.err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: hydra.launcher: ")
    assert ("nowhere" if refused else "srun") in lines[0]
    assert "runs in" not in shown.out, "no summary of a sweep without a run"


NEEDS_OPTUNA = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="hydra-optuna-sweeper is not there"
)


def test_a_search_without_optuna_says_what_to_install(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["-m", "hydra/sweeper=tpe", *ONE_BLOCK, f"runs_dir={tmp_path}"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "error: hydra/sweeper=tpe: needs hydra-optuna-sweeper; pip install 'farkas-exp[search]'"


@NEEDS_OPTUNA
@pytest.mark.parametrize("sweeper", ["tpe", "optuna"])
def test_a_search_is_refused_on_the_test_set(tmp_path, capfd, sweeper):
    search = ["-m", f"hydra/sweeper={sweeper}", *ONE_BLOCK, "lr.value=interval(0.01,0.1)", f"runs_dir={tmp_path}"]
    assert main(search) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: dataset.validation: ")
    assert collect(tmp_path) == []


@NEEDS_OPTUNA
@pytest.mark.filterwarnings("ignore")  # of Optuna, about itself
def test_a_search_minimizes_the_error_on_held_out_images_and_goes_on_where_it_was(tmp_path, capfd):
    search = ["-m", "hydra/sweeper=tpe", "hydra.sweeper.n_trials=3", *ONE_BLOCK, "epochs=1", "progress=none", "seed=0",
              "normalization=batch", "lr.value=tag(log,interval(0.01,0.5))", "dataset.validation=0.2",
              f"runs_dir={tmp_path}"]  # fmt: skip
    assert main(search) == 0
    smallest = min(record.result["validation_error"] for record in collect(tmp_path))
    assert f"Best error on held-out images: {smallest:.2f} % with lr.value=" in capfd.readouterr().out
    results = next(tmp_path.rglob("optimization_results.yaml"))
    assert yaml.safe_load(results.read_text())["best_value"] == pytest.approx(smallest)
    assert main(search) == 0
    assert "3 skipped" in capfd.readouterr().out


def test_no_error_on_the_test_set_is_an_objective(tmp_path):
    for validation, objective in ((0.1, 12.5), (0.0, None)):
        values = settings(dataset__validation=validation)
        done = outcomes.Outcome(runs.FINISHED, str(make_run(tmp_path, values, test_error=12.5)))
        assert planned.objective(parse(values), done) == objective


def test_the_best_setting_has_the_smallest_mean_over_seeds_and_has_not_seen_the_test_set(tmp_path, capsys):
    def made(lr, errors, validation=0.1, **options):
        for seed, error in enumerate(errors):
            config = settings(lr__value=lr, dataset__validation=validation)
            make_run(tmp_path, config, seed=seed, test_error=error, **options)

    made(0.01, [20.0, 22.0])
    made(0.1, [10.0, 30.0])
    made(0.05, [18.0, 19.0])
    made(0.2, [1.0, 2.0], validation=0.0)
    made(0.3, [5.0], state="running")
    assert best.main([f"runs_dir={tmp_path}", "top=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "18.50 % ± 0.71 (n = 2)  lr.value=0.05" in lines[1]
    assert "20.00 % ± 14.14 (n = 2)  lr.value=0.1" in lines[2]
    assert "1 more" in lines[3]
    assert lines[4].endswith("add lr.value=0.05 dataset.validation=0")
    assert best.main([f"runs_dir={tmp_path}", "lr=0.2"]) == 2
    assert "held images out" in capsys.readouterr().err
    assert best.main(["runs=x"]) == 2
