import io

import pytest
from made_runs import make_run, settings

from farkas_exp.machine.files import write_text
from farkas_exp.report import render, tables
from farkas_exp.report.landscape import landscape_table
from farkas_exp.report.separation import PAPER, arm_grids, separation_table
from farkas_exp.runs import RunDirectory, collect


def moons_run(runs_dir, arm, seed=0, depth=50, width=4, test_error=20.0, dead=(0.5, 0.25), **overrides):
    """A run of 4 epochs whose training accuracy is .5, .9, .7, .8 and whose diagnostics are given."""
    config = settings("mlp", dataset__name="moons", epochs=4, model__depth=depth, model__width=width, **overrides)
    rows = [
        {"epoch": i + 1, "train_error": error, "test_error": 20.0 if i == 1 else test_error, "train_loss": 0.3}
        for i, error in enumerate((50.0, 10.0, 30.0, 20.0))
    ]
    path = make_run(runs_dir, {**config, "arm": arm}, seed=seed, rows=rows, test_error=test_error)
    layers = [
        {"units": 1, "dead_units": 1.0, "dead_points": dead[0]},
        {"units": 3, "dead_units": 0.0, "dead_points": 0.0},
    ]
    lines = [
        {"epoch": 0, "layers": layers, "dead_samples": dead[0], "grad_norm": 2.0, "effective_rank": {"a": 1, "b": 3}},
        {"epoch": 4, "layers": layers, "dead_samples": dead[1], "grad_norm": 0.5, "robust_error": {"8/255": 90.0}},
    ]
    import json

    write_text(RunDirectory(path).diagnostics, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_table_has_last_and_best_epoch_dead_units_and_the_papers_numbers(tmp_path):
    moons_run(tmp_path, "Sep-UP", seed=0, test_error=40.0, regularizer__name="sep_up")
    moons_run(tmp_path, "Sep-UP", seed=1, test_error=20.0, regularizer__name="sep_up")
    moons_run(tmp_path, "ReLU", seed=0)
    table = separation_table(collect(tmp_path))
    assert [row[0].lines[0] for row in table.rows] == ["ReLU", "Sep-UP"]  # the paper's order
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row["train acc."].lines == ("0.800", "0.800–0.800")
    assert row["best"].lines[0] == "0.900"
    assert row["val. acc."].lines == ("0.700", "0.600–0.800")
    assert row["best val."].lines[0] == "0.800"
    assert row["dead units"].lines[0] == "0.250"  # one of 1 + 3 units
    assert row["dead points"].lines[0] == "0.250"
    assert row["most in a layer"].lines[0] == "0.500"
    assert row["n"].lines == ("2",)
    assert row["paper"].lines == ("0.9882 / 0.9333",)
    record = table.records[1]
    assert (record["train acc. mean"], record["paper train acc."]) == (pytest.approx(0.8), PAPER["Sep-UP"][0])
    assert "ReLU" in tables.to_markdown(table)


def test_runs_of_several_sizes_are_drawn_as_heat_maps_by_arm(tmp_path):
    for depth in (2, 10):
        for width in (2, 4):
            moons_run(tmp_path, "Sep-UP", depth=depth, width=width, regularizer__name="sep_up")
            moons_run(tmp_path, "ReLU", depth=depth, width=width)
    moons_run(tmp_path, "residual", model__residual=True)  # one size only
    found = arm_grids(collect(tmp_path))
    assert [grid.label for grid in found] == ["ReLU", "Sep-UP"]
    assert set(found[0].runs) == {(2, 2), (2, 4), (10, 2), (10, 4)}
    files = render.render_separation(collect(tmp_path), tmp_path / "out", ("md", "png"), io.StringIO())
    assert [path.name for path in files] == ["separation_grid.md", "separation_grid.png"]


def test_a_regularized_run_is_no_plain_one_in_the_deep_and_narrow_grid(tmp_path):
    from farkas_exp.report.deep_narrow import grids

    moons_run(tmp_path, "Sep-UP", regularizer__name="sep_up")
    assert not grids(collect(tmp_path))
    moons_run(tmp_path, "ReLU")
    assert [grid.label for grid in grids(collect(tmp_path))] == ["plain"]


def test_figures_are_shown_before_and_after_and_left_out_where_nobody_has_them(tmp_path):
    moons_run(tmp_path, "Lemma 1")
    table = landscape_table(collect(tmp_path))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["gradient"].lines == ("2 → 0.5",)
    assert row["effective rank"].lines == ("2 → –",)
    assert row["error at 8/255 (%)"].lines == ("– → 90",)
    assert "max. eigenvalue" not in row
    assert table.records[0]["grad_norm last"] == 0.5
