"""Who the processes of a run are, how they agree, and how Slurm starts them."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from farkas_exp import runs
from farkas_exp.config.store import config_dir
from farkas_exp.launch import execution, workers
from farkas_exp.machine import distributed
from farkas_exp.machine.distributed import first_host, from_environment, meeting_point
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.processes import ALONE, Processes
from farkas_exp.runs import read_json
from farkas_exp.training.execution import choose_mode
from tests.configs import config
from tests.ranks import in_ranks
from tests.shared_runs import run_of


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


@pytest.mark.parametrize("port", ["none", "-1", "65536"])
def test_a_port_that_there_cannot_be_is_refused(port):
    with pytest.raises(UserError, match=f"MASTER_PORT: expected a whole number below 65536 .* got '{port}'"):
        meeting_point({"MASTER_ADDR": "there", "MASTER_PORT": port})


def test_a_graph_is_for_one_process():
    gpu = torch.device("cuda")
    assert choose_mode(config(), gpu, 1) == "graph"
    assert choose_mode(config(), gpu, 2) == "none"
    with pytest.raises(UserError, match="compile: graph is for one process"):
        choose_mode(config(compile="graph"), gpu, 2)


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
    assert read_json(run_of(tmp_path).environment)["starts"][-1]["world_size"] == 2


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
