"""Several processes for one run: the numbers of one, one record, one decision, and no hang whatever happens to them."""

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
from farkas_exp.config.store import config_dir
from farkas_exp.data.base import batch_share
from farkas_exp.data.base import test_share as share_of_test
from farkas_exp.launch import execution, workers
from farkas_exp.machine import liveness, processes
from farkas_exp.machine.distributed import first_host, from_environment, meeting_point
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.processes import ALONE, Processes
from farkas_exp.machine.signals import StopRequest
from farkas_exp.runs import RunDirectory, collect, read_json, read_rows
from farkas_exp.training import building
from farkas_exp.training import session as train
from farkas_exp.training.execution import choose_mode
from farkas_exp.training.optimizer import build_optimizer
from farkas_exp.training.trainer import Trainer, TrainerState
from tests.configs import config
from tests.data.test_device import made, same
from tests.paths import ROOT
from tests.ranks import command, command_with, in_ranks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
CIFAR_STYLE = {"crop_padding": 2, "flip": True, "cutout": 3}
SMALL = [
    "model=farkasnet18", "model.blocks=[1,1]", "model.widths=[4,8]", "normalization=batch", "lr.value=0.05",
    "dataset=digits", "dataset.train_limit=200", "augmentation=cutout", "augmentation.crop_padding=2",
    "augmentation.cutout=3", "dropout=constant", "dropout.rate=0.1", "batch_size=40", "epochs=3", "device=cpu",
    "wandb.mode=disabled", "progress=none", "failure.epochs=0",
]  # fmt: skip
"""Five steps an epoch, with everything that is random: crops, flips, cutout, dropout; and batch norm."""
EVERY_STEP = ["checkpoint.every_epochs=0", "checkpoint.every_minutes=1e-9"]
TIMES = {"time", "epoch_seconds", "images_per_second"}


def record(runs_dir, seed=0):
    (found,) = [record for record in collect(runs_dir) if record.seed == seed]
    return found


def numbers(runs_dir):
    """The metrics of a run without its times, its weights and momenta."""
    run = RunDirectory(record(runs_dir).path)
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(run.metrics)]
    saved = torch.load(run.checkpoint, weights_only=True)
    return rows, saved["model"], [state["momentum_buffer"] for state in saved["optimizer"]["state"].values()]


def assert_same(expected, runs_dir):
    """Bitwise."""
    (rows, weights, momenta), (rows2, weights2, momenta2) = expected, numbers(runs_dir)
    assert rows == rows2
    assert all(torch.equal(weights[key], weights2[key]) for key in weights)
    assert all(torch.equal(a, b) for a, b in zip(momenta, momenta2, strict=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two seeds trained by two processes, in one command; what they printed."""
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    return runs_dir, in_ranks(2, command, "-m", *SMALL, "seed=0,1", f"runs_dir={runs_dir}")


# --- who they are


def test_processes_are_what_torchrun_or_a_slurm_step_says():
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
    assert from_environment({}) == ALONE
    assert from_environment({"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "2", **slurm}) == Processes(5, 6, 2)
    assert from_environment(slurm) == Processes(3, 8, 1)
    # a batch script, or a job of one task: no step of several
    assert from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == ALONE
    assert from_environment({**slurm, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == ALONE
    for wrong in ({"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}, {**slurm, "SLURM_PROCID": "8"}):
        with pytest.raises(UserError, match=r"RANK|SLURM_PROCID"):
            from_environment(wrong)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,9],login", "gpu03"),
        ("node7", "node7"),
        ("a,b[1-2]", "a"),
        ("n[9-11]-ib", "n9-ib"),
        ("rack-1-[008,010-012]", "rack-1-008"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
    assert first_host(nodes) == first


def test_the_meeting_point_is_given_or_made_of_the_job_and_its_step():
    step = {"SLURM_STEP_NODELIST": "gpu[3-4]", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"}
    host, port = meeting_point(step)
    assert host == "gpu3"
    assert 1024 < port < 32768  # below Linux's ports for clients
    assert meeting_point({**step, "SLURM_PROCID": "5"}) == (host, port)
    assert meeting_point({**step, "SLURM_STEP_ID": "1"}) != (host, port)
    assert meeting_point({**step, "MASTER_ADDR": "there", "MASTER_PORT": "99"}) == ("there", 99)
    with pytest.raises(UserError, match="MASTER_ADDR: missing"):
        meeting_point({})


# --- what each of them gets


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 30])
def test_every_test_image_is_in_exactly_one_share(world_size):
    for count in (0, 1, 2, 5, 23, 10_000):
        shares = [share_of_test(count, rank, world_size) for rank in range(world_size)]
        assert [index for share in shares for index in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("world_size", "start"), [(2, 0), (4, 3), (8, 1)])
def test_shares_of_batches_are_the_rows_of_the_whole_batches_bitwise(world_size, start):
    whole = list(made().train_batches(2, start))
    shares = [list(made(rank=rank, world_size=world_size).train_batches(2, start)) for rank in range(world_size)]
    assert same(whole, [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*shares, strict=True)])


@pytest.mark.parametrize("world_size", [2, 8])
def test_shares_of_the_test_set_are_the_test_set_also_where_some_are_empty(world_size, monkeypatch):
    from farkas_exp.data import device

    monkeypatch.setattr(device, "TEST_BATCH_VALUES", 16 * 4)  # four images a batch
    ((images, labels),) = [tuple(map(torch.cat, zip(*made().test_batches(), strict=True)))]
    ours = [batch for rank in range(world_size) for batch in made(rank=rank, world_size=world_size).test_batches()]
    assert torch.equal(images, torch.cat([batch[0] for batch in ours]))
    assert torch.equal(labels, torch.cat([batch[1] for batch in ours]))
    assert list(made(rank=0, world_size=40, batch_size=40).test_batches()) == []


def test_a_batch_that_cannot_be_shared_is_refused():
    assert batch_share(12, 4) == 3
    for batch_size, world_size in ((40, 3), (2, 4)):
        with pytest.raises(UserError, match=f"batch_size: {batch_size} cannot be shared equally by {world_size}"):
            batch_share(batch_size, world_size)


# --- one run, whoever trains it


class InDoublePrecision:
    """A data set whose images are float64."""

    def __init__(self, data):
        self.data = data

    def __getattr__(self, name):
        return getattr(self.data, name)

    def train_batches(self, epoch, start_step=0):
        return ((images.double(), labels) for images, labels in self.data.train_batches(epoch, start_step))


def trained_in_double(steps):
    """The weights after some steps with crops, flips and cutout, and the summed loss and errors of these steps."""
    made = config(normalization={"name": "none"}, augmentation=CIFAR_STYLE, regularizer={
        "name": "norm_bias", "strength": 1e-3, "norm_squared": 5.0})  # fmt: skip
    with distributed.group() as processes:
        place = {"rank": processes.rank, "world_size": processes.world_size}
        data = train.build_data(
            made.dataset, made.augmentation, batch_size=made.batch_size, seed=0, device="cpu", **place
        )
        model = building.build_model(made, data, torch.device("cpu")).double()
        optimizer = build_optimizer(model, made.optimizer, 0.05)
        trainer = Trainer(made, model, optimizer, InDoublePrecision(data), torch.device("cpu"), processes)
        trainer.distribute()
        state = TrainerState()
        trainer.train_epoch(state, StopRequest(), pause=lambda: state.step >= steps and processes.is_first)
        weights = [parameter.detach().numpy() for parameter in model.parameters()]
        return state.step, weights, processes.sum(list(state.totals.values()))


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_take_the_steps_of_one(world_size):
    step, weights, totals = trained_in_double(4)
    untrained = trained_in_double(1)[1]
    assert step == 4
    for step2, weights2, totals2 in in_ranks(world_size, trained_in_double, 4):
        assert step2 == 4
        assert totals2 == pytest.approx(totals, rel=1e-12)
        for ours, theirs in zip(weights, weights2, strict=True):
            assert abs(ours - theirs).max() < 1e-12
    assert max(abs(a - b).max() for a, b in zip(weights, untrained, strict=True)) > 1e-3


def evaluated(path, changes):
    """Loss and error that the processes find with the weights at `path`."""
    made = config(**changes)
    with distributed.group() as processes:
        trainer = train._build_trainer(made, processes)
        trainer.model.load_state_dict(torch.load(path, weights_only=True)["model"])
        if processes.rank:  # running statistics of its own, which must not count
            for buffer in trainer.model.buffers():
                buffer.zero_()
        found = trainer.evaluate()
        on = made.dataset.evaluated_on
        return found[f"{on}_loss"], found[f"{on}_error"]


def test_evaluation_counts_every_image_once_with_the_statistics_of_the_first(undisturbed):
    runs_dir, _ = undisturbed
    path = RunDirectory(record(runs_dir).path).checkpoint
    held_out = {"dataset": {"validation": 0.115}, "batch_size": 39}  # 23 images: 7, 8 and 8
    loss, error = evaluated(path, held_out)
    for loss2, error2 in in_ranks(3, evaluated, path, held_out):
        assert error2 == error
        assert loss2 == pytest.approx(loss, rel=1e-5)
    row = read_rows(RunDirectory(record(runs_dir).path).metrics)[-1]
    assert evaluated(path, {}) == pytest.approx((row["test_loss"], row["test_error"]), rel=1e-5)


def test_two_processes_train_two_seeds_and_only_the_first_one_speaks(undisturbed):
    runs_dir, ((status, out, err), (status1, out1, err1)) = undisturbed
    assert (status, status1) == (0, 0)
    assert "2 runs in" in out
    assert "2 finished" in out
    assert (err, out1, err1) == ("", "", "")
    assert [record.state for record in collect(runs_dir)] == [runs.FINISHED] * 2
    for each in collect(runs_dir):
        assert read_json(RunDirectory(each.path).environment)["starts"][-1]["world_size"] == 2
        assert [row["epoch"] for row in each.metrics()] == [1, 2, 3]
        assert len(torch.load(RunDirectory(each.path).checkpoint, weights_only=True)["ranks"]) == 2
    assert len(list(runs_dir.glob(".sweeps/*"))) == 1


def test_the_same_command_skips_what_is_done(undisturbed):
    runs_dir, _ = undisturbed
    (status, out, err), second = in_ranks(2, command, *SMALL, f"runs_dir={runs_dir}")
    assert (status, err) == (0, "")
    assert "done before: test error" in out
    assert second == (0, "", "")


def test_random_numbers_are_a_function_of_seed_and_rank(undisturbed):
    """The training stream of the first is that of a single process, the second one's is another."""
    runs_dir, _ = undisturbed
    states = [
        torch.load(RunDirectory(record(runs_dir, seed).path).checkpoint, weights_only=True)["ranks"][rank]["rng"]
        for seed in (0, 1) for rank in (0, 1)
    ]  # fmt: skip
    assert all(not torch.equal(states[i], states[j]) for i in range(4) for j in range(i))


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["batch_size=41"], "batch_size: 41 cannot be shared equally by 2 processes"),
        (["-m", "hydra/launcher=local_parallel", "seed=0,1"], "hydra/launcher: this command is several processes"),
        pytest.param(["modle=resnet18"], "modle: unknown 'modle'", marks=pytest.mark.slow),
        pytest.param(
            ["regularizer=sep_up", "regularizer.strength=1"],
            "regularizer.name: sep_up looks at the units and points",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["diagnostics.measures=[robustness]", "diagnostics.epochs=[1]"],
            "diagnostics.measures: robustness attacks",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistake_is_one_line_of_the_first_and_status_2_of_all(tmp_path, arguments, words):
    (status, out, err), second = in_ranks(2, command, *SMALL, *arguments, f"runs_dir={tmp_path / 'runs'}")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {words}")
    assert err.count("\n") == 1
    assert second == (2, "", "")
    assert not list((tmp_path / "runs").glob("*/*/*"))


def test_a_graph_is_for_one_process():
    gpu = torch.device("cuda")
    assert choose_mode(config(), gpu, 1) == "graph"
    assert choose_mode(config(), gpu, 2) == "none"
    with pytest.raises(UserError, match="compile: graph is for one process"):
        choose_mode(config(compile="graph"), gpu, 2)


def other_data_on_the_second(rank):
    if rank:
        from farkas_exp.data import device

        device.fingerprint = lambda arrays: "other"


@pytest.mark.slow
def test_processes_that_see_different_data_are_refused(tmp_path):
    (status, _, err), second = in_ranks(2, command_with, other_data_on_the_second, *SMALL, f"runs_dir={tmp_path}")
    assert (status, second[0]) == (2, 2)
    assert err.startswith("error: dataset: the processes see different data (fingerprints ")


# --- signals, deaths and errors


def at_step(number, action):
    """Let `action` happen in training step `number` (from 1)."""
    step, count = Trainer._train_step, 0

    def counted(self, images, labels):
        nonlocal count
        count += 1
        if count == number:
            action()
        return step(self, images, labels)

    Trainer._train_step = counted


def terminate_the_second(rank):
    if rank:
        at_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM))


def kill_the_second(rank):
    if rank:
        at_step(8, lambda: os.kill(os.getpid(), signal.SIGKILL))


def kill_both(rank):
    at_step(8, lambda: os.kill(os.getpid(), signal.SIGKILL))


def divide_by_zero_in_the_second(rank):
    if rank:
        at_step(3, lambda: 1 / 0)


def divide_by_zero_in_the_first(rank):
    if not rank:
        at_step(3, lambda: 1 / 0)


def go_silent(rank):
    """Let the second process give no sign of life any more, and hang in a step; a kill would close its connections."""
    liveness.BEAT_SECONDS, liveness.SILENCE_SECONDS, distributed.GRACE_SECONDS = 0.1, 2.0, 1.0
    if rank:
        at_step(7, lambda: (setattr(liveness.Watch, "_run", None), processes.Group.watch.stop(), time.sleep(60)))


def test_a_silent_process_ends_the_others_in_time(tmp_path):
    """It lives, so no connection breaks: without the watch the first one would wait for it for an hour."""
    first, _ = in_ranks(2, command_with, go_silent, *SMALL, *EVERY_STEP, f"runs_dir={tmp_path}", wait_for=[0])
    assert first == 75
    assert record(tmp_path).state == runs.INTERRUPTED
    assert RunDirectory(record(tmp_path).path).checkpoint.exists()


def test_a_signal_to_one_stops_all_after_the_same_step_and_they_go_on_bitwise(tmp_path, undisturbed):
    answers = in_ranks(2, command_with, terminate_the_second, *SMALL, f"runs_dir={tmp_path}")
    assert [answer[0] for answer in answers] == [75, 75]
    assert "stopped by SIGTERM in epoch 2, step 2" in answers[0][1]
    saved = torch.load(RunDirectory(record(tmp_path).path).checkpoint, weights_only=True)
    assert (saved["state"]["epoch"], saved["state"]["step"]) == (1, 2)
    assert record(tmp_path).progress["state"] == runs.INTERRUPTED
    assert [answer[0] for answer in in_ranks(2, command, *SMALL, f"runs_dir={tmp_path}")] == [0, 0]
    assert_same(numbers(undisturbed[0]), tmp_path)


@pytest.mark.parametrize("tampering", [kill_the_second, pytest.param(kill_both, marks=pytest.mark.slow)])
def test_after_a_kill_two_processes_go_on_bitwise(tmp_path, undisturbed, tampering):
    """From a checkpoint inside an epoch, since one is written after every step."""
    arguments = [*SMALL, *EVERY_STEP, f"runs_dir={tmp_path}"]
    first, second = in_ranks(2, command_with, tampering, *arguments)
    assert second == -signal.SIGKILL
    if tampering is kill_the_second:
        assert first[0] == 75
        assert "another process of this run ended without a message" in first[1]
    assert record(tmp_path).state == runs.INTERRUPTED
    saved = torch.load(RunDirectory(record(tmp_path).path).checkpoint, weights_only=True)["state"]
    assert (saved["epoch"], saved["step"]) in ((1, 1), (1, 2))
    assert [answer[0] for answer in in_ranks(2, command, *arguments)] == [0, 0]
    assert_same(numbers(undisturbed[0]), tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 4, marks=pytest.mark.slow)],
)
def test_another_number_of_processes_goes_on_to_the_same_numbers(tmp_path, first, second):
    """Without dropout and batch norm, whose numbers are those of a process."""
    arguments = [*SMALL, "normalization=none", "dropout=none", "dropout.rate=0", *EVERY_STEP]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert in_ranks(2, command, *arguments, f"runs_dir={whole}")[0][0] == 0
    in_ranks(first, command_with, kill_both, *arguments, f"runs_dir={parts}")
    assert record(parts).state == runs.INTERRUPTED
    assert in_ranks(second, command, *arguments, f"runs_dir={parts}")[0][0] == 0
    (rows, weights, momenta), (rows2, weights2, momenta2) = numbers(whole), numbers(parts)
    for row, row2 in zip(rows, rows2, strict=True):
        figures = {key: value for key, value in row.items() if value is not None}
        assert {key: row2[key] for key in figures} == pytest.approx(figures, rel=1e-4)
    for ours, theirs in zip([*weights.values(), *momenta], [*weights2.values(), *momenta2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "tampering", [pytest.param(divide_by_zero_in_the_first, marks=pytest.mark.slow), divide_by_zero_in_the_second]
)
def test_an_error_of_one_ends_all_with_its_reason_in_the_record(tmp_path, tampering):
    first, second = in_ranks(2, command_with, tampering, "-m", *SMALL, "seed=0,1", f"runs_dir={tmp_path}")
    assert (first[0], second[0]) == (1, 1)
    assert "ZeroDivisionError: division by zero" in first[1]
    assert "1 crashed" in first[1]
    crashed = record(tmp_path)
    assert crashed.state == runs.CRASHED
    assert "lambda: 1 / 0" in (crashed.path / "error.txt").read_text()
    if tampering is divide_by_zero_in_the_second:
        assert "process 1: ZeroDivisionError" in first[1]
        assert second[2] == "error: process 1: ZeroDivisionError: division by zero\n"
    # the same command leaves the crashed one alone and trains the other
    (status, out, _), _ = in_ranks(2, command, "-m", *SMALL, "seed=0,1", f"runs_dir={tmp_path}")
    assert status == 1
    assert "1 finished, 1 crashed" in out


def first_said_and_together():
    with distributed.group() as processes:
        said = processes.first_said(None if processes.rank < 2 else f"by {processes.rank}")
        errors = []
        for mistake in (UserError("key: wrong"), OSError("gone")):

            def fail(mistake=mistake):
                if processes.rank == 1:
                    raise mistake

            try:
                processes.together(fail)
            except Exception as error:  # noqa: BLE001 - what is asked for
                errors.append(f"{type(error).__name__}: {error}")
        return said, processes.agree(processes.rank == 2), processes.agree(False), errors


def test_an_error_or_a_word_of_one_is_one_of_all():
    answers = in_ranks(3, first_said_and_together)
    assert [answer[:3] for answer in answers] == [("by 2", True, False)] * 3
    users = "UserError: key: wrong"
    assert answers[1][3] == [users, "OSError: gone"]
    assert answers[0][3] == answers[2][3] == [users, "RankFailed: process 1: OSError: gone"]


def test_one_process_needs_no_group():
    assert distributed.current() is ALONE
    with distributed.group({}) as processes:
        assert processes is ALONE
        workers.call(processes, config())
        workers.dismiss(processes, 0)
    assert processes.gather(3) == [3]
    assert processes.sum([1.5, 2]) == [1.5, 2]
    with pytest.raises(ZeroDivisionError), processes.bound_together():
        processes.together(lambda: 1 / 0)
    assert not distributed.is_broken()


# --- Slurm


def as_slurm_task():
    """Make this process a task of a Slurm step instead of one that torchrun has started."""
    for name, slurm in (("RANK", "PROCID"), ("WORLD_SIZE", "STEP_NUM_TASKS"), ("LOCAL_RANK", "LOCALID")):
        os.environ[f"SLURM_{slurm}"] = os.environ.pop(name)
    os.environ["SLURM_STEP_NODELIST"] = os.environ.pop("MASTER_ADDR")


def task_of_a_slurm_job(runs_dir):
    """What submitit calls in each task of a job; the runs of its group are one, composed as ever."""
    from farkas_exp.launch import jobs, slurm

    outcomes = []
    as_slurm_task()
    jobs.run_group = lambda work, group, stop: outcomes.append(execution.execute(config(runs_dir)).status)
    slurm._Job(None, ())()  # type: ignore[arg-type]
    return outcomes


def test_the_tasks_of_a_slurm_job_train_a_run_together(tmp_path):
    assert in_ranks(2, task_of_a_slurm_job, tmp_path) == [[runs.FINISHED], []]
    assert read_json(RunDirectory(record(tmp_path).path).environment)["starts"][-1]["world_size"] == 2


@pytest.mark.parametrize(("nodes", "tasks", "ends_all"), [(2, 4, True), (1, 1, False)])
def test_a_slurm_job_of_several_tasks_is_submitted_as_such(tmp_path, monkeypatch, nodes, tasks, ends_all):
    from farkas_exp.launch import slurm

    (tmp_path / "srun").touch(mode=0o755)  # all that submitit looks for before it submits
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    written = yaml.safe_load((Path(config_dir()) / "hydra" / "launcher" / "slurm.yaml").read_text())
    settings = {key: value for key, value in written.items() if key not in (*slurm._OWN_SETTINGS, "_target_")}
    settings |= {"nodes": nodes, "tasks_per_node": tasks, "gpus_per_node": tasks, "submitit_folder": str(tmp_path)}
    script = slurm._executor(settings)._executor._make_submission_file_text("python", "1")
    assert f"#SBATCH --nodes={nodes}\n" in script
    assert f"#SBATCH --ntasks-per-node={tasks}\n" in script
    assert f"#SBATCH --gpus-per-node={tasks}\n" in script
    assert ("--kill-on-bad-exit=1" in script) == ends_all


# --- torchrun itself


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


def test_torchrun_trains_one_run(tmp_path, undisturbed):
    out, _ = (process := torchrun(f"runs_dir={tmp_path}")).communicate(timeout=300)
    assert process.returncode == 0, out
    assert out.count("finished: ") == 1
    assert_same(numbers(undisturbed[0]), tmp_path)


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
    assert_same(numbers(tmp_path / "a"), tmp_path / "b")


@pytest.mark.slow
def test_sigterm_to_torchrun_stops_every_process_with_a_checkpoint(tmp_path):
    process = torchrun("epochs=5000", f"runs_dir={tmp_path}")
    wait_for_epoch(process, tmp_path, 3)
    process.terminate()
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "interrupted: " in out
    assert record(tmp_path).progress["state"] == runs.INTERRUPTED
    saved = torch.load(RunDirectory(record(tmp_path).path).checkpoint, weights_only=True)
    assert (saved["state"]["epoch"], len(saved["ranks"])) >= (3, 2)


@pytest.mark.slow
def test_the_processes_of_a_killed_torchrun_leave_with_a_checkpoint(tmp_path):
    process = torchrun("epochs=50000", f"runs_dir={tmp_path}")
    wait_for_epoch(process, tmp_path, 3)
    process.kill()
    process.communicate(timeout=300)  # until the last process that could print has ended
    assert record(tmp_path).progress["state"] == runs.INTERRUPTED
    assert not RunDirectory(record(tmp_path).path).is_locked()


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_said_once(tmp_path):
    out, _ = (process := torchrun("batch_size=41", f"runs_dir={tmp_path}")).communicate(timeout=300)
    assert process.returncode != 0
    assert out.count("error: batch_size: 41 cannot be shared equally") == 1
