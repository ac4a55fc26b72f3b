"""Runs that version 0.1.0 left behind are recognised, skipped, continued, listed and rendered as they are."""

import csv
import json
import math
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from farkas_exp import runs
from farkas_exp.config import parse
from farkas_exp.config.identity import identify
from farkas_exp.launch import cli, execution, outcomes
from farkas_exp.report import command as report
from farkas_exp.runs import status
from tests.composing import composed
from tests.paths import ROOT

FIXTURE = ROOT / "tests" / "fixtures" / "runs_0_1"
EXPECTED: list[dict[str, Any]] = json.loads((FIXTURE / "expected.json").read_text())
DONE = [run for run in EXPECTED if run["status"] in ("finished", "failed")]
(INTERRUPTED,) = [run for run in EXPECTED if run["status"] == "interrupted"]
SOME = [next(run for run in DONE if text in run["command"] + run["status"]) for text in ("finished", "failed", "moons")]
GONE = {"only_for"}
"""Keys of 0.1.0 outside of the identity that the schema has no more."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the runs, which a test may change."""
    shutil.copytree(FIXTURE, tmp_path / "runs", ignore=shutil.ignore_patterns("expected.json", "README.md"))
    return tmp_path / "runs"


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "lock"}


@pytest.mark.parametrize("run", EXPECTED, ids=lambda run: run["run"].replace("/seed_", "-"))
def test_the_identity_is_that_of_the_record(run: dict[str, Any]) -> None:
    record = json.loads((FIXTURE / run["run"] / "run.json").read_text())
    assert record["identity"] == run["identity"]
    values = {key: value for key, value in record["config"].items() if key not in GONE}
    assert identify(parse({**values, "seed": run["seed"]})).hash == run["identity"]


@pytest.mark.parametrize("run", DONE, ids=lambda run: run["run"].replace("/seed_", "-"))
def test_its_settings_skip_it_without_a_change(run: dict[str, Any], folder: Path) -> None:
    before = contents(folder)
    made = composed(*run["command"].split(), f"runs_dir={folder}")
    outcome = execution.execute(made)
    assert (outcome.status, outcome.path) == (outcomes.SKIPPED, str(folder / run["run"]))
    assert contents(folder) == before


@pytest.mark.parametrize("run", SOME, ids=lambda run: run["run"].replace("/seed_", "-"))
def test_its_command_skips_it_without_a_change(
    run: dict[str, Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert cli.main([*run["command"].split(), f"runs_dir={folder}"]) == 0
    said = capfd.readouterr().out
    assert said.startswith("skipped: ")
    assert run["run"] in said
    assert contents(folder) == before


def test_the_interrupted_run_is_continued_to_the_same_numbers(folder: Path) -> None:
    assert cli.main([*INTERRUPTED["command"].split(), f"runs_dir={folder}"]) == 0
    rows = [json.loads(line) for line in (folder / INTERRUPTED["run"] / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {key: rows[-1][key] for key in INTERRUPTED["continued"]} == pytest.approx(INTERRUPTED["continued"], rel=1e-4)


def test_every_run_is_read_with_its_state_and_outcome() -> None:
    found = {f"{run.path.parent.name}/{run.path.name}": run for run in runs.collect(FIXTURE)}
    assert {name: (run.identity, run.seed, run.state) for name, run in found.items()} == {
        run["run"]: (run["identity"], run["seed"], run["status"]) for run in EXPECTED
    }


def test_the_status_lists_every_run_with_its_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([f"runs_dir={folder}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for run in EXPECTED:
        (line,) = [line for line in lines if run["run"] in line]
        assert line.split()[0] == run["status"]
        if run["test_error"] is not None:
            assert f"{run['test_error']:.2f}" in line.split()


def test_the_report_has_the_means_of_the_finished_runs(folder: Path, tmp_path: Path) -> None:
    assert report.main([f"runs_dir={folder}", f"out={tmp_path / 'report'}", "format=csv"]) == 0
    files = [file.read_text().splitlines() for file in (tmp_path / "report").glob("*.csv")]
    rows = [row for lines in files for row in csv.DictReader(lines)]
    errors: dict[str, list[float]] = defaultdict(list)
    failed: dict[str, int] = defaultdict(int)
    for run in EXPECTED:
        errors[run["identity"]] += [run["test_error"]] * (run["status"] == "finished")
        failed[run["identity"]] += run["status"] == "failed"
    for identity, found in errors.items():
        (row,) = [row for row in rows if row["identity"] == identity]
        assert (int(row["n"]), int(row["failed"])) == (len(found), failed[identity])
        numbers = [float(value) for key, value in row.items() if key.endswith("_error_mean") and value]
        if found:
            assert any(math.isclose(number, sum(found) / len(found)) for number in numbers)
