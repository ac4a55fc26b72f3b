"""A run is found by the hash of its identity, whatever stands before it."""

import os
import shutil
from pathlib import Path

import pytest

from farkas_exp import runs
from farkas_exp.config import identity as identities
from farkas_exp.config.identity import identify
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.runs.paths import run_path
from tests.configs import config


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a finished run of `config(tmp_path)`."""
    made = config(tmp_path, epochs=1)
    assert execution.execute(made).status == runs.FINISHED
    return run_path(made)


def test_a_new_run_is_named_by_slug_hash_and_seed(tmp_path: Path) -> None:
    made = config(tmp_path / "none_yet", seed=3)
    assert run_path(made) == tmp_path / "none_yet" / identify(made).folder / "seed_3"
    assert identify(made).folder == f"{identify(made).slug}-{identify(made).hash}"


def test_a_changed_slug_still_finds_every_run(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(identities, "_slug", lambda config: "one-more-word")
    made = config(tmp_path, epochs=1)
    assert identify(made).slug == "one-more-word"
    assert execution.execute(made).status == outcomes.SKIPPED
    assert run_path(made) == finished
    assert execution.execute(config(tmp_path, epochs=1, seed=1)).status == runs.FINISHED, "a new seed goes beside it"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert [record.seed for record in runs.collect(tmp_path)] == [0, 1]


def test_a_renamed_folder_is_found_as_long_as_its_name_ends_in_the_hash(tmp_path: Path, finished: Path) -> None:
    made = config(tmp_path, epochs=1)
    for name in (f"my favourite-{identify(made).hash}", f"-{identify(made).hash}"):
        (moved,) = [path for path in tmp_path.iterdir() if path.name.endswith(identify(made).hash)]
        moved.rename(tmp_path / name)
        assert execution.execute(made).status == outcomes.SKIPPED
        assert run_path(made) == tmp_path / name / "seed_0"


def test_seeds_in_two_folders_of_one_identity_are_all_found(tmp_path: Path, finished: Path) -> None:
    other = tmp_path / f"other-{identify(config(tmp_path, epochs=1)).hash}"
    assert execution.execute(config(tmp_path, epochs=1, seed=1)).status == runs.FINISHED
    other.mkdir()
    (finished.parent / "seed_1").rename(other / "seed_1")
    assert [execution.execute(config(tmp_path, epochs=1, seed=seed)).status for seed in (0, 1)] == [
        outcomes.SKIPPED
    ] * 2
    assert run_path(config(tmp_path, epochs=1, seed=2)).parent == finished.parent, "the name of today comes first"


def test_two_folders_that_hold_the_same_run_are_refused(tmp_path: Path, finished: Path) -> None:
    made = config(tmp_path, epochs=1)
    copy = tmp_path / f"copy-{identify(made).hash}"
    shutil.copytree(finished.parent, copy)
    with pytest.raises(UserError, match=r"^runs_dir: .*copy-.*/seed_0 and .*/seed_0 are the same run; move one"):
        execution.execute(made)
    (copy / "seed_0" / "run.json").unlink()
    assert execution.execute(made).status == outcomes.SKIPPED, "a folder without a record holds no run"


def test_many_runs_are_found_with_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [config(tmp_path, lr={"value": 0.001 * (1 + number)}) for number in range(50)]
    for each in made:
        (tmp_path / f"other_slug-{identify(each).hash}" / "seed_0").mkdir(parents=True)
        (tmp_path / f"other_slug-{identify(each).hash}" / "seed_0" / "run.json").touch()
    listings = 0
    listdir = os.listdir

    def counted(path: str) -> list[str]:
        nonlocal listings
        listings += 1
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counted)
    assert {run_path(each).parent.name.split("-")[0] for each in made} == {"other_slug"}
    assert listings == 1
