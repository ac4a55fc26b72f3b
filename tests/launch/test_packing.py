"""Several runs at once from one command: each is the run that it would have been alone."""

import os
import subprocess
import sys

import pytest

from farkas_exp.launch.arguments import packing
from farkas_exp.runs import RunDirectory, collect
from tests.paths import ROOT
from tests.small_command import SMALL
from tests.stopping import assert_same


def sweep(runs_dir, *arguments):
    """A sweep over two arms and two seeds, with one thread a run in either case."""
    return subprocess.run(
        [sys.executable, "-m", "farkas_exp", "-m", "normalization=none,batch", "seed=0,1", *SMALL, *arguments,
         f"runs_dir={runs_dir}"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_packed_runs_equal_sequential_ones_bitwise_and_a_failed_one_stays_alone(tmp_path):
    alone = sweep(tmp_path / "alone")
    packed = sweep(tmp_path / "packed", "packing=2", "hydra.launcher.threads=1")
    assert (alone.returncode, packed.returncode) == (0, 0), alone.stderr + packed.stderr
    assert "4 runs in" in packed.stdout
    first, second = collect(tmp_path / "alone"), collect(tmp_path / "packed")
    assert [(r.identity, r.seed) for r in first] == [(r.identity, r.seed) for r in second]
    for mine, theirs in zip(first, second, strict=True):
        assert_same(RunDirectory(mine.path), RunDirectory(theirs.path))
    again = sweep(tmp_path / "packed", "packing=2")
    assert "4 skipped" in again.stdout


def test_packing_is_the_local_launcher_with_as_many_processes(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert packing(["-m", "seed=0,1", "packing=3"]) == ["hydra/launcher=local_parallel", "hydra.launcher.n_jobs=3"]
    assert packing(["-m", "packing=1"]) == packing(["-m"]) == packing(["packing=x"]) == []
    assert packing(["packing=3", "hydra/launcher=slurm"]) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,5")
    assert packing(["packing=2"])[1] == "hydra.launcher.n_jobs=4"
