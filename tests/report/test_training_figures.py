"""Two training errors and two losses: every table says which it shows, and no column mixes them."""

import re
from pathlib import Path

import pytest

from farkas_exp.report import compare
from farkas_exp.report.arms import arms_table, group_arms
from farkas_exp.report.maps import deep_narrow_figure, deep_narrow_table, grids
from farkas_exp.report.training_figures import AFTER, EACH, RUNNING, training_key, training_note
from farkas_exp.runs import collect, record_at
from farkas_exp.studies.deep_narrow.report import KINDS
from farkas_exp.studies.separation import table1
from tests.made_runs import make_run, settings

MEASURED = {"train_eval_error": 1.0, "train_eval_loss": 0.1}


def arm_of(runs: Path) -> tuple[str, list[str]]:
    """The training error of the only arm, and the notes on it."""
    table = arms_table(group_arms(collect(runs)))
    (row,) = table.rows
    return row[table.columns.index("train error (%)")].lines[0], [n for n in table.notes if "Training error" in n]


def test_the_running_mean_is_shown_and_said_to_be_one(tmp_path: Path) -> None:
    make_run(tmp_path, settings(epochs=2), test_error=8.0)
    error, (note,) = arm_of(tmp_path)
    assert error == "4.00"
    assert note == f"Training error (train_error): {RUNNING}."


def test_that_after_the_epoch_is_shown_where_every_run_has_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, settings(epochs=2), seed=seed, test_error=8.0, result=MEASURED)
    make_run(tmp_path, settings(epochs=2), seed=2, state="failed", epoch=1, reason="loss is not finite")
    error, (note,) = arm_of(tmp_path)
    assert error == "1.00"
    assert note == f"Training error (train_eval_error): {AFTER}."


def test_a_column_never_mixes_them_and_the_note_names_the_runs_that_have_both(tmp_path: Path) -> None:
    make_run(tmp_path, settings(epochs=2), test_error=8.0, result=MEASURED)
    make_run(tmp_path, settings(epochs=2), seed=1, test_error=8.0)
    make_run(tmp_path, settings(epochs=2), seed=2, test_error=8.0)
    error, (note,) = arm_of(tmp_path)
    assert error == "4.00", "not the mean of 1 and 4 and 4"
    assert f"1 run of 3 also measured {AFTER} (train_eval_error), which is not shown." in note


def test_the_error_of_mixed_images_is_none_of_images(tmp_path: Path) -> None:
    path = make_run(tmp_path, settings(epochs=2, augmentation__mixup=0.2), result={"train_error_mixed": 60.0})
    text = re.sub(r'"train_error": [0-9.]+,\s*', "", (path / "result.json").read_text())
    (path / "result.json").write_text(text)
    error, (note,) = arm_of(tmp_path)
    assert error == "–"
    assert "Runs without it: 1 trained on mixed images (train_error_mixed)." in note


def test_without_a_result_there_is_nothing_to_say(tmp_path: Path) -> None:
    make_run(tmp_path, settings(epochs=2), state="running", epoch=1)
    assert arm_of(tmp_path) == ("–", [])
    assert training_note([], "loss") == ""
    assert training_key([], "loss") == "train_loss"


def test_a_comparison_of_runs_explains_both(tmp_path: Path) -> None:
    paths = [make_run(tmp_path, settings(epochs=2), seed=seed, result=MEASURED) for seed in (0, 1)]
    _, outcome = compare.report([record_at(path) for path in paths]).tables
    assert {"train error", "train eval error"} <= {row[0].lines[0] for row in outcome.rows}
    assert outcome.notes == tuple(EACH.values())
    assert RUNNING in outcome.notes[0]
    assert AFTER in outcome.notes[1]
    paths = [make_run(tmp_path / "other", settings(epochs=2), seed=seed) for seed in (0, 1)]
    assert compare.report([record_at(path) for path in paths]).tables[1].notes == (EACH["train "],)


@pytest.mark.parametrize("shown", ["map", "picture", "separation"])
def test_accuracies_on_moons_say_that_they_are_running_means(tmp_path: Path, shown: str) -> None:
    size = {"model__depth": 5, "model__width": 4}
    make_run(tmp_path, settings("mlp", dataset__name="moons", epochs=2, **size), result=MEASURED, test_error=20.0)
    records = collect(tmp_path)
    if shown == "separation":
        said = " ".join(note for table in table1.report(records).tables for note in table.notes)
    else:
        found, _ = grids(records, KINDS)
        text = " ".join(deep_narrow_table(found).notes)
        said = text if shown == "map" else deep_narrow_figure(found).get_supxlabel()
    assert RUNNING in said
