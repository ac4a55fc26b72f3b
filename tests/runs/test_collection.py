"""Which runs are one experiment: those of one identity, on the same data."""

from pathlib import Path

import pytest

from farkas_exp.runs import RunRecord
from farkas_exp.runs.collection import faults, told_apart


def run(identity: str, seed: int, **data: str) -> RunRecord:
    return RunRecord(Path("nowhere"), identity, "slug", seed, {"epochs": 3}, "finished", 3, 3, None, data=data)


def test_runs_on_different_data_are_different_experiments_and_no_others_are():
    cats, cars, older = run("a", 0, files="cats5678-1"), run("a", 1, files="cars5678"), run("a", 2)
    found = told_apart([cats, cars, older])
    assert [record.identity for record in found] == ["a+cats5678", "a+cars5678", "a+unknown"]
    assert [record.config for record in found] == [
        {"epochs": 3, "data": name} for name in ("cats5678", "cars5678", "unknown")
    ]
    assert [record.seed for record in found] == [0, 1, 2]
    alike = [run("a", 0, files="cats"), run("a", 1, files="cats"), run("a", 2), run("b", 0, files="cars"), run("b", 1)]
    assert told_apart(alike) == alike


def test_smaller_copies_of_the_same_files_are_part_of_the_data():
    one, other = run("a", 0, files="cats", small="1"), run("a", 1, small="2", files="cats")
    assert [record.identity for record in told_apart([one, other])] == ["a+cats+1", "a+cats+2"]


@pytest.mark.parametrize("name", ["run.json", "state.json", "metrics.jsonl", "result.json", "checkpoint.pt"])
def test_any_file_of_a_run_makes_a_folder_one_that_is_named(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    assert faults(tmp_path, None) == []
    (tmp_path / name).touch()
    (fault,) = faults(tmp_path, None)
    assert (fault.path, "damaged" in fault.why) == (tmp_path, name == "run.json")
