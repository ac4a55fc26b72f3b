"""A job that the system kills for want of memory: tried again, until it has won nothing since the last time."""

import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from farkas_exp import runs
from farkas_exp.launch import execution, jobs, local_parallel, outcomes, summary
from farkas_exp.launch.sweep import Sweep
from farkas_exp.machine import pids
from farkas_exp.runs import read_json, write_json
from tests.composing import of_experiment
from tests.configs import config
from tests.small_command import TINY


def test_a_run_has_crashed_once_it_was_killed_for_memory_twice_at_one_step(tmp_path):
    made = config(tmp_path, epochs=1)
    run = runs.open_run(made)
    for begun, crashed in [((0, 0), False), ((1, 3), False), ((1, 4), False), ((1, 4), True)]:
        run.path.mkdir(parents=True, exist_ok=True)
        starts = [*runs.read_starts(run), {"epoch": begun[0], "step": begun[1]}]
        write_json(run.environment, {"data": {"name": "digits"}, "starts": starts})
        assert bool(execution.ended_for_memory(made)) == crashed
    assert read_json(run.environment)["data"] == {"name": "digits"}
    settled = execution.settled(made)
    assert (settled.status, settled.exit_status) == (runs.CRASHED, outcomes.CRASH)
    assert "needs more memory; retry_failed=true continues it" in settled.note
    assert "MemoryError: " in run.error.read_text()
    assert execution.ended_for_memory(made), "killed before it noted its start"


def test_a_run_that_was_killed_for_memory_once_trains_on(tmp_path):
    made = config(tmp_path, epochs=1)
    assert execution.ended_for_memory(made) is None
    assert execution.execute(made).status == runs.FINISHED
    with runs.open_run(made).locked():
        assert execution.ended_for_memory(made) is None, "it is another process's now"


@pytest.mark.parametrize(("counts", "killed"), [("nr_free 3\noom_kill 7\n", 7), ("nr_free 3\n", 0), ("a b c", 0)])
def test_linux_counts_what_it_killed(tmp_path, monkeypatch, counts, killed):
    monkeypatch.setattr(pids, "_COUNTS", tmp_path / "vmstat")
    assert pids.ended_for_memory() == 0
    (tmp_path / "vmstat").write_text(counts)
    assert pids.ended_for_memory() == killed


@pytest.fixture
def work(tmp_path):
    """The work of a sweep of one run, as the launchers have it."""
    compositions, master = of_experiment("")
    loader = SimpleNamespace(config_loader=compositions._loader)
    return jobs.Work(loader, master, lambda config: None, Sweep(tmp_path / "sweep", tmp_path), {})


class Killed:
    """A process that the system killed."""

    exitcode, pid = -9, 2**22 + 1

    def __init__(self, **job):
        assert job["args"][1]

    def start(self):
        """Die."""

    def is_alive(self):
        return False

    join = start


def in_processes(work, group, retries):
    pool = local_parallel._Pool(work, local_parallel.Plan(1, (), 1), retries, context=SimpleNamespace(Process=Killed))
    pool.run([group], SimpleNamespace(requested=False))


def in_slurm(work, group, retries, state="OUT_OF_MEMORY"):
    slurm = pytest.importorskip("farkas_exp.launch.slurm")
    paths = SimpleNamespace(folder=work.sweep.directory, stdout="log")
    job = SimpleNamespace(job_id="7_0", paths=paths, done=lambda: True, get_info=lambda: {"State": state})

    @contextmanager
    def batch():
        yield

    executor = SimpleNamespace(batch=batch, submit=lambda job_of_ours: job)
    waiting = [group]
    for _ in range(1 + retries):
        waiting = waiting and slurm._run_array(executor, work, waiting)
    assert not waiting or retries == 0


@pytest.mark.parametrize("retries", [0, 5])
@pytest.mark.parametrize("launcher", [in_processes, in_slurm])
def test_a_job_that_always_runs_out_of_memory_comes_to_an_end(tmp_path, monkeypatch, work, launcher, retries):
    monkeypatch.setattr(local_parallel, "_POLL_SECONDS", 0)
    killed = itertools.count()
    monkeypatch.setattr(pids, "ended_for_memory", lambda: next(killed))
    group = tuple(jobs.numbered([[*TINY, f"runs_dir={tmp_path / 'runs'}"]], 0))
    statuses = []
    for _ in range(2):  # the same command twice
        launcher(work, group, retries)
        (outcome,) = outcomes.read_outcomes(work.sweep.directory)
        statuses.append(outcome.exit_status)
    assert statuses == [outcomes.CRASH if retries else outcomes.TO_BE_CONTINUED, outcomes.CRASH]
    (record,) = runs.collect(tmp_path / "runs")
    assert record.state == runs.CRASHED
    assert next(killed) < 20, "it was not tried on and on"


def test_a_job_that_somebody_killed_may_always_go_on(tmp_path, monkeypatch, work):
    monkeypatch.setattr(local_parallel, "_POLL_SECONDS", 0)
    monkeypatch.setattr(pids, "ended_for_memory", lambda: 3)
    group = tuple(jobs.numbered([[*TINY, f"runs_dir={tmp_path / 'runs'}"]], 0))
    in_processes(work, group, 3)
    (outcome,) = outcomes.read_outcomes(work.sweep.directory)
    assert outcome == outcomes.Outcome(outcomes.LOST, " ".join(group[0].overrides), "its process was ended by SIGKILL")


def test_the_other_runs_of_its_job_are_tried_again(tmp_path, monkeypatch, work):
    monkeypatch.setattr(local_parallel, "_POLL_SECONDS", 0)
    killed = itertools.count()
    monkeypatch.setattr(pids, "ended_for_memory", lambda: next(killed))
    group = tuple(jobs.numbered([[*TINY, f"runs_dir={tmp_path}", f"seed={seed}"] for seed in (0, 1)], 0))
    in_processes(work, group, 1)
    assert [outcome.status for outcome in outcomes.read_outcomes(work.sweep.directory)] == [runs.CRASHED, outcomes.LOST]


def test_a_job_whose_outcome_has_no_room_is_a_file_error_and_is_not_tried_again(tmp_path, monkeypatch, work, capsys):
    """Taken for killed (75), or for nothing (0), the runs of a full disk would be started for ever, or forgotten."""
    monkeypatch.setattr(local_parallel, "_POLL_SECONDS", 0)
    monkeypatch.setattr(Killed, "exitcode", outcomes.UNWRITTEN)
    starts = []
    monkeypatch.setattr(Killed, "start", lambda process: starts.append(process))
    in_processes(work, tuple(jobs.numbered([[*TINY, f"runs_dir={tmp_path}"]], 0)), 3)
    (outcome,) = outcomes.read_outcomes(work.sweep.directory)
    assert (outcome.status, outcome.exit_status, len(starts)) == (outcomes.DISK, outcomes.CRASH, 1)
    work.sweep.experiment = "demo"
    assert summary.end_of_sweep(work.sweep, ["-m"], None) == outcomes.CRASH
    assert "no report" not in capsys.readouterr().err
