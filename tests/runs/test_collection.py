"""Which runs are one experiment: those of one identity, on the same data."""

import shutil
from pathlib import Path

import pytest

from farkas_exp.runs import RunDirectory, RunRecord, write_json
from farkas_exp.runs.collection import faults, survey, told_apart
from tests.made_runs import make_run, settings


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


def test_a_copy_of_a_run_or_a_link_to_it_is_no_repetition(tmp_path):
    made = make_run(tmp_path, settings(epochs=3))
    other = make_run(tmp_path, settings(epochs=3), seed=1)
    shutil.copytree(made.parent, tmp_path / f"a-{made.parent.name}")  # before the run's own in order
    shutil.copytree(other, other.with_name("seed_1_before"))
    (tmp_path / "linked").symlink_to(made.parent)
    found = survey(tmp_path)
    assert [record.path for record in found.records] == [made, other]
    assert {each.path.parent.name for each in found.unreadable} == {f"a-{made.parent.name}", "linked", made.parent.name}
    assert str(found.unreadable[0]).endswith(f"(the same run as {made}, counted once)")


def test_a_run_that_was_trained_twice_with_other_errors_is_named_as_such(tmp_path):
    made = make_run(tmp_path, settings(epochs=3), test_error=10.0)
    again = make_run(tmp_path / "elsewhere", settings(epochs=3), test_error=30.0)
    again.parent.rename(tmp_path / f"a-{made.parent.name}")
    (left_out,) = survey(tmp_path).unreadable
    assert left_out.why == f"the same run as {made}, counted once, though with an error of 30.00 %"


def test_of_two_folders_of_a_run_that_with_the_result_counts(tmp_path):
    made = make_run(tmp_path, settings(epochs=3), state="interrupted")
    done = make_run(tmp_path / "elsewhere", settings(epochs=3))
    for path, name in ((made, "a"), (done, "b")):  # neither is named as the run is
        path.parent.rename(tmp_path / f"{name}-{path.parent.name}")
    assert [record.state for record in survey(tmp_path).records] == ["finished"]
    make_run(tmp_path, settings(epochs=3), state="interrupted")
    assert [record.state for record in survey(tmp_path).records] == ["interrupted"], "it has its name"


def test_runs_of_one_name_and_other_settings_are_no_copies_and_seeds_follow_by_their_size(tmp_path):
    made = [make_run(tmp_path, settings(batch_size=size), seed=seed) for size in (64, 128) for seed in (2, 10)]
    found = survey(tmp_path)
    assert len({record.slug for record in found.records}) == 1, "what this test is about"
    assert ({record.path for record in found.records}, found.unreadable) == ({*made}, [])
    assert [record.seed for record in found.records] == [2, 10, 2, 10]


def test_runs_of_one_seed_on_different_data_both_count(tmp_path):
    made = make_run(tmp_path, settings(epochs=3))
    shutil.copytree(made.parent, tmp_path / "copy")
    for path, data in ((made, "cats"), (tmp_path / "copy" / "seed_0", "cars")):
        write_json(RunDirectory(path).environment, {"data": {"fingerprint": data}})
    assert len(survey(tmp_path).records) == 2


@pytest.mark.parametrize("name", ["run.json", "state.json", "metrics.jsonl", "result.json", "checkpoint.pt"])
def test_any_file_of_a_run_makes_a_folder_one_that_is_named(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    assert faults(tmp_path, None) == []
    (tmp_path / name).touch()
    (fault,) = faults(tmp_path, None)
    assert (fault.path, "damaged" in fault.why) == (tmp_path, name == "run.json")
