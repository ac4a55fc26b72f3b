"""What an experiment ends with: its table or figure, from the runs of its setting; deep and narrow maps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farkas_exp.machine.files import write_text
from farkas_exp.report.command import main, render_experiment
from farkas_exp.report.kinds import Kind, Kinds, kinds_table
from farkas_exp.report.maps import Grid, deep_narrow_figure, deep_narrow_table
from farkas_exp.report.maps import grids as grids_of
from farkas_exp.runs import RunRecord, collect
from farkas_exp.studies.deep_narrow.report import KINDS
from farkas_exp.studies.farkas.filling import fill
from farkas_exp.studies.farkas.paper import TABLE1_MINI, TABLES
from farkas_exp.studies.farkas.paper_table import other_arms_tables, paper_table
from tests.made_runs import make_run, settings
from tests.paper_cells import cell_settings, find
from tests.wandb_file import complete


def narrow(
    runs: Path, kind: str, depth: int, width: int, error: float, dead: tuple[float, float], seed: int = 0
) -> Path:
    """A run of one kind on two moons whose layers have the given shares of dead points at the start and at the end."""
    needs = next(each.needs for each in KINDS.rows if each.label == kind)
    more = {key.replace(".", "__"): value for key, value in needs.items() if key != "model.name"}
    made = settings(
        needs["model.name"], dataset__name="moons", model__depth=depth, model__width=width, epochs=3, **more
    )
    path = make_run(runs, made, seed=seed, test_error=error)
    rows = [
        {"epoch": epoch, "layers": [{"dead_points": share}, {"dead_points": 0.0}]}
        for epoch, share in zip((0, 3), dead, strict=True)
    ]
    write_text(path / "diagnostics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return path


def grids(records: Sequence[RunRecord]) -> list[Grid]:
    return grids_of(records, KINDS)[0]


@pytest.fixture
def moons(tmp_path: Path) -> Path:
    narrow(tmp_path, "plain", 2, 4, 10.0, (0.25, 0.5))
    narrow(tmp_path, "plain", 2, 4, 20.0, (0.75, 0.5), seed=1)
    narrow(tmp_path, "plain", 20, 4, 50.0, (1.0, 1.0))
    narrow(tmp_path, "Farkas, sum", 20, 4, 0.0, (0.0, 0.0))
    narrow(tmp_path, "Farkas, mean", 20, 4, 30.0, (0.0, 0.0))
    narrow(tmp_path, "batch norm", 2, 8, 5.0, (0.0, 0.0))
    return tmp_path


def test_a_run_is_of_the_kind_that_needs_most_of_it(moons: Path) -> None:
    """A tailored network is a multi-layer perceptron, too, but no plain one."""
    narrow(moons, "tailored", 20, 4, 5.0, (0.0, 0.0))
    found = {grid.label: grid for grid in grids(collect(moons))}
    assert list(found) == ["plain", "batch norm", "tailored", "Farkas, sum", "Farkas, mean"]
    assert [len(found[kind].runs[20, 4]) for kind in ("plain", "tailored")] == [1, 1]
    assert found["tailored"].values("accuracy", [20], [4]).tolist() == [[95.0]]


def test_dead_points_after_training_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    path = narrow(tmp_path, "plain", 2, 4, 10.0, (0.25, 0.5))
    assert grids(collect(tmp_path))[0].values("dead_at_end", [2], [4]).tolist() == [[50.0]]
    measured = (path / "diagnostics.jsonl").read_text()
    (path / "diagnostics.jsonl").write_text(measured.replace('"epoch": 3', '"epoch": 1'))
    (grid,) = grids(collect(tmp_path))
    assert np.isnan(grid.values("dead_at_end", [2], [4])).all()
    assert grid.values("dead_at_start", [2], [4]).tolist() == [[25.0]]


def test_the_maps_hold_means_over_seeds_and_gaps_where_no_run_is(moons: Path) -> None:
    figure = deep_narrow_figure(grids(collect(moons)))
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps[:4]] == ["plain", "batch norm", "Farkas, sum", "Farkas, mean"]
    accuracy, trained, at_start, at_end = (
        np.ma.filled(maps[row].images[0].get_array(), np.nan) for row in (0, 4, 8, 12)
    )
    np.testing.assert_array_equal(accuracy, [[85.0, np.nan], [50.0, np.nan]])
    np.testing.assert_array_equal(trained, [[92.5, np.nan], [75.0, np.nan]])
    np.testing.assert_array_equal(at_start, [[50.0, np.nan], [100.0, np.nan]])
    np.testing.assert_array_equal(at_end, [[50.0, np.nan], [100.0, np.nan]])
    assert [text.get_text() for text in maps[0].texts] == ["85", "×", "50", "×"]
    assert [label.get_text() for label in maps[12].get_xticklabels()] == ["4", "8"]
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["2", "20"]
    assert (maps[0].get_ylabel(), maps[12].get_xlabel()) == ("depth", "width")
    assert "mean over n = 1–2 seeds" in figure.get_supxlabel()


def test_in_a_map_a_failed_run_counts_as_chance_and_one_under_way_or_on_held_out_images_not_at_all(
    tmp_path: Path,
) -> None:
    narrow(tmp_path, "plain", 2, 4, 10.0, (0.0, 0.0))
    (done,) = collect(tmp_path)
    make_run(tmp_path, done.config, seed=1, state="failed", reason="chance", test_error=70.0)
    make_run(tmp_path, done.config, seed=2, state="interrupted")
    for depth in (2, 20):
        held_out = {"dataset": {**done.config["dataset"], "validation": 0.2}}
        make_run(tmp_path, done.config | held_out | {"model": {**done.config["model"], "depth": depth}}, test_error=1.0)
    (grid,) = grids(collect(tmp_path))
    assert [run.seed for run in grid.runs[2, 4]] == [0, 1]
    assert grid.values("accuracy", [2], [4]).tolist() == [[(90 + 50) / 2]]
    assert grid.values("train_accuracy", [2], [4]).tolist() == [[(95 + 50) / 2]]
    assert [record["n"] for record in deep_narrow_table([grid]).records] == [2]


def test_of_several_settings_the_one_with_most_places_is_mapped(tmp_path: Path) -> None:
    narrow(tmp_path, "plain", 2, 4, 10.0, (0.0, 0.0))
    narrow(tmp_path, "plain", 20, 4, 10.0, (0.0, 0.0))
    (done, _) = collect(tmp_path)
    for seed in range(3):
        make_run(tmp_path, done.config | {"batch_size": 64}, seed=seed, test_error=1.0)
    (grid,), notes = grids_of(collect(tmp_path), KINDS)
    assert [len(runs) for runs in grid.runs.values()] == [1, 1]
    assert notes == ["Left out, runs in other settings: 3; choose one with KEY=VALUE."]


def test_the_maps_have_a_table_and_files(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = deep_narrow_table(grids(collect(moons)))
    assert table.columns == ("", "plain", "batch norm", "Farkas, sum", "Farkas, mean")
    row = next(row for row in table.rows if row[0].texts[0] == "depth 20, width 4")
    assert [c.texts[0] for c in row[1:]] == ["50", "–", "100", "70"]
    assert [c.texts[1] for c in row[1:]] == ["training 75", "training –", "training 100", "training 85"]
    assert [c.texts[2] for c in row[1:]] == ["dead 100", "dead –", "dead 0", "dead 0"]
    assert main(["deep_narrow", f"runs_dir={moons}", "format=png,csv"]) == 0
    assert {path.name for path in (moons / "report").iterdir()} == {"deep_narrow.png", "deep_narrow.csv"}
    make_run(moons / "others", settings())
    assert main(["deep_narrow", f"runs_dir={moons / 'others'}"]) == 2
    assert "no finished run of a multi-layer perceptron" in capsys.readouterr().err


def test_a_sweep_shows_the_runs_of_its_own_setting_whoever_trained_them(tmp_path: Path) -> None:
    wanted = find("table1", "resnet18", "batch")
    paper = make_run(tmp_path, cell_settings(wanted), test_error=7.0)
    short = make_run(tmp_path, cell_settings(wanted, epochs=20), test_error=33.0)
    make_run(tmp_path, cell_settings(find("table1", "resnet34", "batch"), epochs=20), test_error=34.0)
    render_experiment("table1", tmp_path, [short])
    text = (tmp_path / "report" / "table1.md").read_text()
    assert "33.00 (1)" in text
    assert "34.00 (1)" in text
    assert "7.00 (1)" not in text
    render_experiment("table1", tmp_path, [paper])
    text = (tmp_path / "report" / "table1.md").read_text()
    assert "7.00 (1)" in text
    assert "33.00 (1)" not in text


def test_control_arms_stand_below_the_table(tmp_path: Path) -> None:
    wanted = find("table1", "resnet18", "none")
    make_run(tmp_path, cell_settings(wanted), test_error=12.0)
    changes: list[dict[str, Any]] = [{"init__last_depth_exponent": -0.5}, {"init__name": "match_farkas"}]
    paths = [make_run(tmp_path, cell_settings(wanted, **change), test_error=9.0) for change in changes]
    others = other_arms_tables(fill(TABLES["table1"], collect(tmp_path)))[0]
    assert sorted(row[0].texts[0] for row in others.rows) == [
        "ResNet18, no BN, lr 0.01, init match_farkas", "ResNet18, no BN, lr 0.01, init.last_depth_exponent -0.5",
    ]  # fmt: skip
    render_experiment("table1_controls", tmp_path, paths)
    text = (tmp_path / "report" / "table1.md").read_text()
    assert "12.00 (1)" in text
    assert "Other arms in the setting of Table 1" in text


def test_the_cpu_edition_has_the_papers_numbers_and_says_what_is_not_the_papers(tmp_path: Path) -> None:
    for wanted in TABLE1_MINI.cells:
        made = cell_settings(wanted, dataset__name="digits", epochs=30, batch_size=16)
        make_run(tmp_path, made, test_error=wanted.value or 0.0)
    filled = fill(TABLE1_MINI, collect(tmp_path))
    assert len(filled.runs) == 8
    table = paper_table(filled)
    assert [[c.texts[0] for c in row] for row in table.rows] == [
        ["ResNet (BN, small LR)", "7.01 (1)", "6.79 (1)"],
        ["FarkasNet (BN, small LR)", "6.87 (1)", "6.50 (1)"],
        ["ResNet (no BN, small LR)", "12.51 (1)", "9.90 (1)"],
        ["FarkasNet (no BN, small LR)", "10.83 (1)", "9.45 (1)"],
    ]
    notes = " ".join(table.notes)
    for part in ("dataset digits (paper: cifar10)", "batch_size 16 (paper: 128)", "small one with batch norm, too"):
        assert part in notes


def test_sentences_of_the_paper_have_tables_of_their_own(tmp_path: Path) -> None:
    for normalize in (False, True):
        make_run(
            tmp_path, settings("fixup34", lr__value=0.05, dataset__normalize=normalize), test_error=8.0 + normalize
        )
    assert main(["fixup_rates", f"runs_dir={tmp_path}", "format=md,png"]) == 0
    text = (tmp_path / "report" / "fixup_rates.md").read_text()
    first, second = text.split("**Claim (d), normalized inputs: FixUp by learning rate**")
    assert "8.00 (1)" in first
    assert "9.00 (1)" in second
    assert "missing" in first


@pytest.mark.usefixtures("private_home")
def test_the_report_is_logged_as_an_artifact(moons: Path) -> None:
    assert main(["deep_narrow", f"runs_dir={moons}", "format=md,png", "log=offline"]) == 0
    (path,) = (moons / "report").glob("wandb/offline-run-*/run-*.wandb")
    found = complete(path)
    assert (found["name"], found["group"], found["project"]) == ("deep_narrow", "reports", "farkas-layers")
    assert [row["deep_narrow/_type"] for row in found["history"]] == ["image-file"]
    assert found["artifacts"] == {"deep_narrow": ["deep_narrow.md", "deep_narrow.png"]}


def test_a_wrong_log_mode_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, settings())
    assert main(["arms", f"runs_dir={tmp_path}", "log=onlin"]) == 2
    assert "log: unknown 'onlin'; did you mean 'online'?" in capsys.readouterr().err


@pytest.mark.parametrize("numbers", [{}, {"n": "3"}])
def test_a_table_of_kinds_speaks_of_the_papers_number_only_where_it_has_one(
    tmp_path: Path, numbers: dict[str, str]
) -> None:
    make_run(tmp_path, settings("resnet18"))
    kinds = Kinds([Kind("plain", {"model.name": "resnet18"}, numbers)])
    table = kinds_table("made", "Made", collect(tmp_path), kinds, [])
    assert any("paper's number" in note for note in table.notes) == bool(numbers)
