"""One process a run, also where the system's locks fail; and a run whose folder is taken away notices."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from farkas_exp import runs
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine import locks
from farkas_exp.runs import open_run, read_rows
from farkas_exp.training.trainer import Trainer
from tests.configs import config
from tests.paths import ROOT

FAILURES = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]
NO_FLOCK = "import fcntl, errno\ndef fail(*a): raise OSError(errno.ENOLCK, 'No locks available')\nfcntl.flock = fail\n"
HOLD = "from pathlib import Path; from farkas_exp.machine import locks\nlock = locks.take(Path({path!r}))\n"


@pytest.fixture
def without_flock(monkeypatch):
    def use(number=errno.ENOLCK):
        def fail(handle, kind):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.flock", fail)
        monkeypatch.setattr(locks, "_said", set())

    return use


def holding(path, *, flock):
    """A process that holds the lock at `path` until it is killed."""
    code = ("" if flock else NO_FLOCK) + HOLD.format(path=str(path)) + "print(lock is not None, flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout.readline() == b"True\n"
    return process


def claim(path, **changes):
    """Make a claim of a process of another machine."""
    values = {"pid": 1, "host": "elsewhere", "place": "elsewhere", "born": "1", "flock": False, **changes}
    path.with_name("lock.claim").write_text(json.dumps(values))
    return path.with_name("lock.claim")


@pytest.mark.parametrize("number", FAILURES)
def test_without_file_locks_a_run_is_trained_by_one_process_and_one_line_says_how(
    tmp_path, without_flock, capfd, number
):
    without_flock(number)
    made = config(tmp_path, epochs=1)
    with open_run(made).locked():
        assert execution.execute(made).status == outcomes.BUSY
    assert execution.execute(made).status == runs.FINISHED
    assert capfd.readouterr().err.splitlines() == [
        f"runs_dir: this file system has no file locks here ({os.strerror(number)});"
        " a claim file that is kept alive replaces them"
    ]
    assert not open_run(made).path.joinpath("lock.claim").exists()


@pytest.mark.parametrize(("theirs", "ours"), [(True, True), (True, False), (False, True), (False, False)])
def test_two_processes_never_hold_a_lock_whichever_of_them_has_file_locks(tmp_path, without_flock, theirs, ours):
    """ENOLCK may come for one process of a machine and not for another."""
    path = tmp_path / "lock"
    with holding(path, flock=theirs) as process:
        if not ours:
            without_flock()
        assert all(locks.is_held(path) for _ in range(100)), "a reader does not take it away"
        assert locks.take(path) is None
        assert f"process {process.pid} on" in locks.holder(path)
        process.kill()
        process.wait()
        assert not locks.is_held(path)
        lock = locks.take(path)
        assert lock.is_own()
        lock.close()
    assert sorted(os.listdir(tmp_path)) == ["lock"]


def test_a_lock_file_that_was_taken_away_is_nobodys_lock(tmp_path):
    """A refused run deletes its unused folder; a process that still has the old lock file open must not lock that."""
    path = tmp_path / "lock"
    first = locks.take(path)
    path.unlink()
    second = locks.take(path)
    assert locks.is_held(path)
    first.close()
    assert locks.is_held(path)
    second.close()
    assert not locks.is_held(path)


def test_the_claim_of_another_machine_is_void_when_it_is_silent(tmp_path, without_flock):
    without_flock()
    path = tmp_path / "lock"
    made = claim(path)
    assert locks.is_held(path) is False  # the lock file itself was never there
    path.touch()
    assert locks.is_held(path)
    assert locks.take(path) is None
    silent = time.time() - locks.STALE_SECONDS - 5
    os.utime(made, (silent, silent))
    assert not locks.is_held(path)
    locks.take(path).close()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "x"}', "\x00"])
def test_a_damaged_claim_counts_until_it_is_silent(tmp_path, without_flock, content):
    without_flock()
    made = claim(tmp_path / "lock")
    made.write_text(content)
    assert locks.take(tmp_path / "lock") is None
    os.utime(made, (1, 1))
    locks.take(tmp_path / "lock").close()


def test_with_file_locks_the_claim_of_a_dead_process_of_another_machine_is_void_at_once(tmp_path):
    claim(tmp_path / "lock", flock=True)
    locks.take(tmp_path / "lock").close()


def test_a_process_number_that_was_given_away_again_is_not_the_holder(tmp_path, without_flock):
    without_flock()
    claim(tmp_path / "lock", pid=os.getpid(), place=locks._place(), born="1")
    locks.take(tmp_path / "lock").close()


def test_a_claim_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    lock = locks.take(tmp_path / "lock")
    made = tmp_path / "lock.claim"
    os.utime(made, (1, 1))
    deadline = time.monotonic() + 240
    while made.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made.stat().st_mtime > 2
    lock.close()


def test_a_claim_that_was_taken_over_is_noticed_and_not_taken_away(tmp_path, without_flock):
    without_flock()
    path = tmp_path / "lock"
    first = locks.take(path)
    os.utime(tmp_path / "lock.claim", (1, 1))
    made = json.loads((tmp_path / "lock.claim").read_text())
    (tmp_path / "lock.claim").write_text(json.dumps({**made, "place": "elsewhere"}))
    os.utime(tmp_path / "lock.claim", (1, 1))
    second = locks.take(path)
    assert not first.is_own()
    first.close()
    assert second.is_own()
    second.close()


def test_a_file_system_without_hard_links_has_claims_too(tmp_path, without_flock, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    without_flock()
    monkeypatch.setattr(os, "link", fail)
    lock = locks.take(tmp_path / "lock")
    assert locks.take(tmp_path / "lock") is None
    lock.close()
    assert os.listdir(tmp_path) == ["lock"]


# --- a run directory that is taken away


def taken_away(how, run, folder):
    if how == "deleted":
        shutil.rmtree(run.path)
    elif how == "moved":
        run.path.rename(folder / "moved")
    elif how == "made anew":
        run.path.rename(folder / "moved")
        shutil.copytree(folder / "moved", run.path)
    elif how == "without its lock":
        run.lock.unlink()


@pytest.mark.parametrize("how", ["deleted", "moved", "made anew", "without its lock"])
@pytest.mark.parametrize("moment", ["a step", "the evaluation"])
def test_a_run_whose_folder_is_taken_away_stops_in_one_line_and_writes_nothing_more(
    tmp_path, monkeypatch, capfd, how, moment
):
    made = config(tmp_path / "runs")
    run, name = open_run(made), {"a step": "_train_step", "the evaluation": "evaluate"}[moment]
    original, calls = getattr(Trainer, name), 0
    after = {}

    def disturbed(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == (7 if moment == "a step" else 2):
            taken_away(how, run, tmp_path)
            after.update({str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()})
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, name, disturbed)
        outcome = execution.execute(made)
    assert (outcome.status, outcome.exit_status) == (outcomes.DISK, 1)
    assert outcome.note.startswith(f"{run.path}: moved, deleted or taken over")
    assert "\n" not in outcome.note
    out = capfd.readouterr()
    assert "finished" not in out.out
    assert out.err == ""
    there = {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    told = [str(path / "log.txt") for path in (tmp_path / "moved", run.path)]  # a handle that was open
    claims = [str(path / "lock.claim") for path in (tmp_path / "moved", run.path)]
    assert {k: v for k, v in there.items() if k not in told} == {
        k: v for k, v in after.items() if k not in told and k in there
    }
    assert set(after) - set(there) <= set(claims)
    assert run.path.exists() == (how in ("made anew", "without its lock"))
    for path in tmp_path.rglob("metrics.jsonl"):
        assert [row["epoch"] for row in read_rows(path)] == [1]
