import io
import json
import math
from pathlib import Path

import pytest
import torch

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import write_text
from farkas_exp.measures.figures import check_measures
from farkas_exp.measures.plane import plane_figures
from farkas_exp.models.create import create_model
from farkas_exp.registry import EXPERIMENTS
from farkas_exp.report import maps, tables
from farkas_exp.report.landscape import at_end, landscape_table
from farkas_exp.report.render import show
from farkas_exp.runs import RunDirectory, collect
from farkas_exp.studies import mini
from farkas_exp.studies.backpropaganda.tables import local_minima_mlp, local_minima_resnet, norm_bias, ntk_width, rank
from farkas_exp.studies.deep_narrow.report import KINDS
from farkas_exp.studies.separation import representations
from farkas_exp.studies.separation import table1 as separation
from farkas_exp.studies.separation.figures import cifar_depth, grid
from farkas_exp.studies.separation.table1 import PAPER, separation_table
from tests.composing import composed, own_arms, sweep_of
from tests.configs import config
from tests.made_runs import make_run, settings


def moons_run(runs_dir, arm, seed=0, depth=50, width=4, test_error=20.0, dead=(0.5, 0.25), **overrides):
    """A run of 4 epochs whose training accuracy is .5, .9, .7, .8 and whose diagnostics are given."""
    made = settings("mlp", dataset__name="moons", epochs=4, model__depth=depth, model__width=width, **overrides)
    rows = [
        {"epoch": i + 1, "train_error": error, "test_error": 20.0 if i == 1 else test_error, "train_loss": 0.3}
        for i, error in enumerate((50.0, 10.0, 30.0, 20.0))
    ]
    layers = [
        {"units": 1, "dead_units": 1.0, "dead_points": dead[0]},
        {"units": 3, "dead_units": 0.0, "dead_points": 0.0},
    ]
    diagnostics = [
        {"epoch": 0, "layers": layers, "dead_samples": dead[0], "grad_norm": 2.0, "effective_rank": {"a": 1, "b": 3}},
        {"epoch": 4, "layers": layers, "dead_samples": dead[1], "grad_norm": 0.5, "robust_error": {"8/255": 90.0}},
    ]
    made["arm"] = arm
    return make_run(runs_dir, made, seed=seed, rows=rows, test_error=test_error, diagnostics=diagnostics)


def test_the_table_has_last_and_best_epoch_dead_units_and_the_papers_numbers(tmp_path):
    moons_run(tmp_path, "Sep-UP", seed=0, test_error=40.0, regularizer__name="sep_up")
    moons_run(tmp_path, "Sep-UP", seed=1, test_error=20.0, regularizer__name="sep_up")
    moons_run(tmp_path, "ReLU", seed=0)
    (table,) = separation.report(collect(tmp_path)).tables
    assert [row[0].lines[0] for row in table.rows] == ["ReLU", "BN", "Sep-U", "Sep-P", "Sep-UP"]  # the paper's order
    assert table.rows[1][2].lines == ("missing", "paper 0.8117")
    assert table.title == "Two moons, 50 layers of 4 units"
    row = dict(zip(table.columns, table.rows[4], strict=True))
    assert row["best train acc."].lines == ("0.900 ± 0.000", "paper 0.9882")
    assert row["final train acc."].lines == ("0.800 ± 0.000",)
    assert row["best val. acc."].lines == ("0.800 ± 0.000", "paper 0.9333")
    assert row["final val. acc."].lines[0] == "0.700 ± 0.141"
    assert row["train loss"].lines == ("0.300 ± 0.000", "paper 0.6988")
    assert row["val. loss"].lines == ("0.500 ± 0.000", "paper 1.0810")
    assert row["dead units"].lines[0] == "0.250 ± 0.000"  # one of 1 + 3 units
    assert row["dead points"].lines[0] == "0.250 ± 0.000"
    assert row["most in a layer"].lines[0] == "0.500 ± 0.000"
    assert row["n"].lines == ("2",)
    record = next(record for record in table.records if record["kind"] == "Sep-UP")
    assert (record["best train acc. mean"], record["paper best train acc."]) == (0.9, f"{PAPER['Sep-UP'][0]}")
    assert "ReLU" in tables.to_markdown(table)


def test_runs_of_several_sizes_are_drawn_as_heat_maps_by_arm(tmp_path):
    for depth in (2, 10):
        for width in (2, 4):
            moons_run(tmp_path, "Sep-UP", depth=depth, width=width, regularizer__name="sep_up")
            moons_run(tmp_path, "ReLU", depth=depth, width=width)
    moons_run(tmp_path, "residual", model__residual=True)  # one size only
    found, notes = maps.grids(collect(tmp_path), separation.KINDS)
    assert not notes
    found = [grid for grid in found if len(grid.runs) > 1]
    assert [grid.label for grid in found] == ["ReLU", "Sep-UP"]
    assert set(found[0].runs) == {(2, 2), (2, 4), (10, 2), (10, 4)}
    files = show(grid(collect(tmp_path)), tmp_path / "out", ("md", "png"), io.StringIO())
    assert [path.name for path in files] == ["separation_grid.md", "separation_grid.png"]


def test_the_size_of_another_experiment_has_a_table_of_its_own_without_the_papers_numbers(tmp_path):
    moons_run(tmp_path, "Sep-UP", regularizer__name="sep_up")
    moons_run(tmp_path, "Sep-UP", depth=60, width=3, regularizer__name="sep_up")
    tables = separation.report(collect(tmp_path)).tables
    assert [table.title for table in tables] == ["Two moons, 50 layers of 4 units", "Two moons, 60 layers of 3 units"]
    assert [len(table.rows) for table in tables] == [5, 1], "without runs of ours a row says nothing at 60x3"
    assert "paper" not in str(tables[1].rows)


def test_the_table_says_how_many_runs_have_another_size_or_no_test_error(tmp_path):
    moons_run(tmp_path, "ReLU")
    assert "Left out" not in str(separation.report(collect(tmp_path)).tables[0].notes)
    moons_run(tmp_path, "ReLU", depth=10)
    moons_run(tmp_path, "ReLU", dataset__validation=0.1)
    (table,) = separation.report(collect(tmp_path)).tables
    assert table.notes[-1].startswith("Left out: 2 runs of another size, or whose error is on held-out points;")


def test_raw_sums_and_balanced_constraints_are_two_rows(tmp_path):
    for reduction in ("sum", "balanced"):
        moons_run(tmp_path, None, regularizer__name="sep_up", regularizer__reduction=reduction)
    labels = [row[0].lines[0] for row in separation_table(collect(tmp_path)).rows]
    assert [label for label in labels if "reduction" in label] == [
        "Sep-UP: mlp, no BN, regularizer.reduction balanced", "Sep-UP: mlp, no BN, regularizer.reduction sum",
    ]  # fmt: skip


def test_a_map_of_images_of_ten_classes_says_so(tmp_path):
    for depth in (2, 4):
        for model, more in (("rect_conv", {}), ("farkas_rect_conv", {"aggregation__name": "mean"})):
            made = settings(model, dataset__name="digits", model__depth=depth, model__width=4, **more)
            make_run(tmp_path, {**made, "epochs": 4}, test_error=20.0, result={"train_error": 7.0})
    make_run(tmp_path, settings("rect_conv", dataset__name="digits", model__depth=8, model__width=4), state="failed")
    report = grid(collect(tmp_path))
    (table,) = report.tables
    assert table.title == "Deep and narrow networks on handwritten digits"
    assert table.rows[0][1].lines == ("80", "training 93", "dead –")
    assert "chance, 10 %" in table.notes[0]
    figure = report.figures["separation_grid"]()
    assert "Chance is 10 %" in figure._supxlabel.get_text()
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert {image.get_clim() for image in images} == {(10.0, 100.0)}  # nobody measured dead points
    rows = [row[0].lines[0] for row in cifar_depth(collect(tmp_path)).tables[0].rows]
    assert "ReLU, 4 layers" in rows  # a depth that the paper has not


def test_the_points_of_the_plane_are_drawn_by_layer_and_by_epoch(tmp_path):
    """From the measurement of a network, as a run records it; the smallest seed of an arm is shown."""
    torch.manual_seed(0)
    model = create_model("mlp", 2, in_channels=2, image_size=1, depth=6, width=4)
    plane = json.loads(json.dumps(plane_figures(model, torch.randn(9, 2, 1, 1), torch.arange(9) % 2)))
    assert list(plane["activations"]) == ["3", "4", "6"]
    with torch.no_grad():
        low, _, bottom, _ = plane["extent"]
        corner = model(torch.tensor([low, bottom]).view(1, 2, 1, 1)).softmax(1)[0, 1]
    assert plane["class_1"][0][0] == pytest.approx(float(corner), rel=1e-3)
    path = moons_run(tmp_path, "Sep-UP", regularizer__name="sep_up")
    moons_run(tmp_path, "Sep-UP", seed=1, regularizer__name="sep_up")
    rows = [{"epoch": epoch, "plane": plane} for epoch in (0, 4)]
    write_text(RunDirectory(path).diagnostics, "".join(json.dumps(row) + "\n" for row in rows))
    report = representations.report(collect(tmp_path))
    layers, training = (draw() for draw in report.figures.values())
    assert all("One run each, of the smallest seed." in figure.get_supxlabel() for figure in (layers, training))
    assert [axes.get_title() for axes in training.axes] == ["losses", "training accuracy", "epoch 0", "epoch 4"]
    heads = [axes.get_title() for axes in layers.axes]
    assert heads[1:3] == ["layer 3, units 1, 2", "layer 3, units 3, 4"]
    write_text(RunDirectory(path).diagnostics, json.dumps(rows[0]) + "\n")
    axes = representations.report(collect(tmp_path)).figures["sep_representations"]().axes
    assert axes[0].get_ylabel() == "Sep-UP\nepoch 0", "not after training"
    with pytest.raises(UserError, match="points of the plane; use dataset=moons"):
        check_measures(config(diagnostics={"measures": ["plane"], "epochs": [0]}))


def test_a_regularized_run_is_no_plain_one_in_the_deep_and_narrow_grid(tmp_path):
    moons_run(tmp_path, "Sep-UP", regularizer__name="sep_up")
    assert not maps.grids(collect(tmp_path), KINDS)[0]
    moons_run(tmp_path, "ReLU")
    assert [grid.label for grid in maps.grids(collect(tmp_path), KINDS)[0]] == ["plain"]


def test_runs_that_differ_in_another_setting_are_never_averaged_in_a_map(tmp_path):
    for depth in (2, 10):
        moons_run(tmp_path, "ReLU", depth=depth, test_error=20.0)
    moons_run(tmp_path, "ReLU", depth=2, test_error=60.0, seed=1, lr__value=0.5)
    (grid,), notes = maps.grids(collect(tmp_path), KINDS)
    assert {place: len(runs) for place, runs in grid.runs.items()} == {(2, 4): 1, (10, 4): 1}
    assert notes == ["Left out, runs in other settings: 1; choose one with KEY=VALUE."]


def test_runs_of_the_other_kind_of_network_are_said_to_be_left_out_of_a_map(tmp_path):
    for depth in (2, 10):
        make_run(tmp_path, settings("rect_conv", dataset__name="digits", model__depth=depth, model__width=4))
    moons_run(tmp_path, "ReLU")
    (table,) = grid(collect(tmp_path)).tables
    assert table.title == "Deep and narrow networks on handwritten digits"
    assert table.notes[1:] == ("Left out, runs in other settings: 1; choose one with KEY=VALUE.",)


def test_who_trained_a_run_does_not_decide_its_row(tmp_path):
    moons_run(tmp_path, None, seed=0, regularizer__name="sep_up")
    moons_run(tmp_path, "another name", seed=1, regularizer__name="sep_up")
    row = next(row for row in separation_table(collect(tmp_path)).rows if row[0].lines[0] == "Sep-UP")
    assert row[-2].lines == ("2",)


def test_figures_are_shown_before_and_after_and_left_out_where_nobody_has_them(tmp_path):
    moons_run(tmp_path, "Lemma 1")
    table = landscape_table(collect(tmp_path))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["gradient"].lines == ("2 → 0.5",)
    assert row["effective rank"].lines == ("2 → –",)
    assert row["error at 8/255 (%)"].lines == ("– → 90",)
    assert "max. eigenvalue" not in row
    assert table.records[0]["grad_norm last"] == 0.5


def test_a_figure_before_or_after_training_is_one_of_the_same_epoch_of_as_many_runs_as_it_says(tmp_path):
    rows = {0: {"epoch": 0, "grad_norm": 8.0}, 1: {"epoch": 1, "grad_norm": 4.0}, 4: {"epoch": 4, "grad_norm": 2.0}}
    measured = {"a": ((0, 1, 4), (0, 1), ()), "b": ((0,),), "c": ((4,),), "d": ((0, 1), (4,)), "e": ((0, 1, 4),)}
    for rate, (_, seeds) in enumerate(measured.items(), 1):
        for seed, epochs in enumerate(seeds):
            made = settings("mlp", lr__value=float(rate), epochs=4)
            make_run(tmp_path, made, seed=seed, diagnostics=[rows[epoch] for epoch in epochs])
    table = landscape_table(collect(tmp_path))
    shown = [dict(zip(table.columns, row, strict=True)).get("gradient") for row in table.rows]
    assert [each.lines for each in shown] == [("8 → 4", "n = 2"), ("8 → –",), ("– → 2",), ("–",), ("8 → 2",)]


def test_what_was_not_measured_after_the_last_epoch_is_not_shown_as_that_and_is_not_counted(tmp_path):
    for seed, last in enumerate((4, 1)):
        rows = [{"epoch": 0, "loss": 2.0}, {"epoch": last, "loss": 1.0}]
        make_run(tmp_path, settings("mlp", epochs=4), seed=seed, diagnostics=rows)
    make_run(tmp_path, settings("mlp", epochs=4), seed=2, state="failed", diagnostics=[{"epoch": 0, "loss": 50.0}])
    (table,) = local_minima_mlp(collect(tmp_path)).tables
    (shown,) = [row for row in table.rows if row[0].lines[0] == "default"]
    cells = dict(zip(table.columns, shown, strict=True))
    assert (cells["loss, before"].lines[0], cells["loss, before"].marker) == ("2.0000 ± 0.0000", "")
    assert (cells["n"].lines, cells["failed"].lines) == (("2",), ("1",))
    assert cells["loss, after"].lines[:2] == ("1.0000", "n = 1")
    (record,) = [each for each in table.records if each["arm"] == "default"]
    assert {key: value for key, value in record.items() if key.endswith(" n")} == {"loss, after n": 1}


def test_means_are_over_the_finished_runs_figures_that_are_numbers_at_epochs_that_are_numbers(tmp_path):
    for seed, first in enumerate((2.0, None, 8.0)):
        state = "failed" if seed == 2 else "finished"
        figures = {"grad_norm": 5.0, "hessian_max": None}
        rows = [{"epoch": 0, "loss": first, **figures}, {"epoch": 4, "loss": 1.0 + 2 * seed, **figures}]
        rows += [{"epoch": "5", "loss": 9.0}, {"epoch": None, "loss": 9.0}, {"loss": 9.0}]
        make_run(tmp_path, settings("mlp", epochs=4), seed=seed, state=state, diagnostics=rows)
    table = landscape_table(collect(tmp_path))
    (row,) = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert row["loss"].lines == ("2 → 2", "n = 1 → 2")
    assert row["gradient"].lines == ("5 → 5",)
    assert "max. eigenvalue" not in row
    assert (table.records[0]["loss first"], table.records[0]["loss last"]) == (2.0, 2.0)
    assert {key: value for key, value in table.records[0].items() if key.endswith(" n")} == {"loss first n": 1}


def test_the_end_of_a_failed_run_is_its_last_measurement_and_of_another_one_that_of_its_last_epoch(tmp_path):
    found = {}
    for seed, state in enumerate(("finished", "failed")):
        rows = [{"epoch": epoch, "loss": 3.0 - epoch} for epoch in (0, 1, 2)]
        make_run(tmp_path, settings("mlp", epochs=4), seed=seed, state=state, diagnostics=rows)
    for run in collect(tmp_path):
        found[run.state] = [at_end("loss", last)(run) for last in (False, True)]
    assert found["failed"] == [3.0, 1.0]
    assert found["finished"] == pytest.approx([3.0, float("nan")], nan_ok=True)
    make_run(tmp_path / "late", settings("mlp", epochs=4), diagnostics=rows[1:])
    (late,) = collect(tmp_path / "late")
    assert math.isnan(at_end("loss", last=False)(late)), "it was not measured before its training"


def test_a_row_whose_runs_all_failed_keeps_what_was_measured_of_them(tmp_path):
    made = settings("mlp", init__name="bias_uniform", init__bias=50.0, epochs=4)
    row, result = {"epoch": 0, "loss": 51.4, "grad_norm": 378.0, "hessian_min": -430.0}, {"test_error": None}
    for seed, rows in enumerate(([row], [])):
        make_run(tmp_path, made, seed=seed, state="failed", reason="loss", result=result, diagnostics=rows)
    (table,) = local_minima_mlp(collect(tmp_path)).tables
    (shown,) = [row for row in table.rows if row[0].lines[0] == "biases in U(-50, 50)"]
    cells = dict(zip(table.columns, shown, strict=True))
    assert cells["loss, before"].lines == ("51.4000", "n = 1", "paper 51.445")
    assert cells["loss, before"].marker == "*"
    assert cells["loss, after"].lines == ("–", "paper 2.3153")  # it was measured before its training only
    assert "are those of the failed runs" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("report", "model", "more", "number"),
    [
        (local_minima_resnet, "resnet18", {"init__name": "zero", "optimizer__momentum": 0.0}, "4.60517"),
        (local_minima_mlp, "mlp", {"init__name": "zero", "optimizer__momentum": 0.0}, "4.60517"),
        (norm_bias, "densenet40", {"dataset__normalize": True, "epochs": 300}, f"{100 - 65.61:.2f}"),
        (rank, "resnet18", {"residual__skip": False}, f"{100 - 72.13:.2f}"),
    ],
)  # fmt: skip
def test_runs_on_cifar_100_stand_beside_the_papers_numbers_of_cifar_100(tmp_path, report, model, more, number):
    make_run(tmp_path, settings(model, dataset__name="cifar100", **more))
    (table,) = report(collect(tmp_path)).tables
    (row,) = [row for row in table.rows if row[-2].lines == ("1",)]
    assert f"paper {number}" in [line for cell in row for line in cell.lines]
    assert not any("Not the paper's setting" in note for note in table.notes)


@pytest.mark.parametrize(
    ("report", "model", "epochs", "said"),
    [
        (norm_bias, "resnet18", 5, "epochs 5 (paper: 300)"),
        (local_minima_resnet, "resnet18", 5, "epochs 5 (paper: 200)"),
        (rank, "resnet18", 100, "epochs 100 (paper: 200 or 215)"),
        (rank, "resnet18", 215, ""),
        (rank, "mlp", 100, ""),
        (rank, "farkas_mlp", 200, "epochs 200 (paper: 100 or 108)"),
    ],
)
def test_a_training_of_another_length_than_the_papers_is_said_to_be_one(tmp_path, report, model, epochs, said):
    momentum = {"optimizer__momentum": 0.0} if report is local_minima_resnet else {}
    make_run(tmp_path, settings(model, epochs=epochs, **momentum))
    (table,) = report(collect(tmp_path)).tables
    notes = [note for note in table.notes if note.startswith("Not the paper's setting")]
    assert notes == ([f"Not the paper's setting: {said}."] if said else [])


def test_rows_of_another_length_beside_those_of_the_papers_are_named(tmp_path):
    for name, epochs in (("pytorch", 200), ("zero", 5), ("zero", 200), ("bias_shift", 7)):
        made = settings("resnet18", epochs=epochs, init__name=name, optimizer__momentum=0.0)
        make_run(tmp_path, made | ({"init": {"name": name, "bias": 20.0}} if name == "bias_shift" else {}))
    (table,) = local_minima_resnet(collect(tmp_path)).tables
    assert "Not the paper's setting: epochs 5, 7 in all zero, biases + 20 (paper: 200)." in table.notes


def test_ranks_are_drawn_by_layer_and_kernels_over_width_and_epochs(tmp_path):
    for more in ({}, {"residual__skip": False}):
        rows = [{"epoch": epoch, "effective_rank": {"a": 3.0 - epoch, "b": 5.0}} for epoch in (0, 1)]
        make_run(tmp_path, settings("resnet18", epochs=1, **more), diagnostics=rows)
    figure = rank(collect(tmp_path)).figures["rank"]()
    panels = figure.axes
    assert "one run, of the smallest seed" in figure.get_supxlabel()
    assert [axes.get_title() for axes in panels] == ["ResNet18", "ResNet18 without shortcuts"]
    assert list(panels[0].lines[0].get_ydata()) == [2.0, 5.0]
    assert all(tick == int(tick) for tick in panels[0].get_xticks()), "layers"
    assert not any("mlp" in row[0].lines[0] for row in rank(collect(tmp_path)).tables[0].rows), "none was trained"
    for width in (8, 16):
        made = settings("mlp", epochs=1, model__width=width, model__depth=3)
        figures = {"ntk_correlation": 0.9, "ntk_relative": 0.2, "ntk_norm": 7.0, "param_change": 1.5, "param_norm": 3.0}
        rows = [{"epoch": epoch, **figures} for epoch in (0, 1)]
        make_run(tmp_path / "ntk", made, result={"parameters": 100 * width}, diagnostics=rows)
    report = ntk_width(collect(tmp_path / "ntk"))
    assert [row[0].lines[0] for row in report.tables[0].rows] == ["mlp 3 deep, width 8", "mlp 3 deep, width 16"]
    axes = report.figures["ntk_width"]().axes
    assert list(axes[1].lines[0].get_xdata()) == [800, 1600]
    faster = settings("mlp", epochs=1, model__width=16, model__depth=3, lr__value=0.5)
    make_run(tmp_path / "ntk", faster, result={"parameters": 1600}, diagnostics=[{"epoch": 1, "ntk_correlation": 0.1}])
    other = ntk_width(collect(tmp_path / "ntk")).figures["ntk_width"]().axes[1].lines[0]
    assert sorted(other.get_ydata()) == [0.1, 0.9, 0.9], "not averaged with runs of another setting"
    assert [label.get_text() for label in axes[3].get_xticklabels()] == ["0", "1"]


def test_the_experiments_of_the_siblings_have_an_edition_in_small_that_composes(tmp_path):
    """All of them but those that differ from another one in the data alone."""
    siblings = [name for name in EXPERIMENTS if name.startswith(("sep_", "allconv", "local_", "norm_b", "ntk", "rank"))]
    assert sorted(siblings) == sorted([*mini.SMALL, "allconv_cifar100", "norm_bias_cifar100"])
    for name, overrides in mini.SMALL.items():
        given = [each for each in (*mini.COMMON, *overrides) if not each.startswith("hydra/")]
        first = [each.split(",")[0] if not each.partition("=")[2].startswith("[") else each for each in given]
        config = composed(f"experiment={name}", *sweep_start(name, first), *first)
        digits = config.dataset.name == "digits"
        assert not digits or (config.augmentation.flip, config.augmentation.crop_padding) in ((False, 0), (False, 1))


def sweep_start(experiment, given):
    """The first value of everything that an experiment goes through, but for what is given."""
    keys = {each.partition("=")[0] for each in given}
    first = {key: str(value).split(",")[0] for key, value in sweep_of(experiment).items() if key not in keys}
    if first.get("arm", "").startswith("glob"):
        first["arm"] = next(iter(own_arms(experiment)))
    return [f"{key}={value}" for key, value in first.items()]


def test_one_page_has_every_table_and_figure_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "COMPUTED", ("identity",))  # one for all; each has a test of its own
    monkeypatch.setattr("farkas_exp.studies.identity_matters.report.STEPS", 10)

    def pretend(command):
        """In place of a sweep: one run in the folder that it was given."""
        folder = Path(command[-1].partition("=")[2])
        statuses.append(3 if "rank" in command[3] else 0)
        if "rank" in command[3]:
            return 3
        moons_run(folder, "Sep-UP", regularizer__name="sep_up")
        return 0

    statuses = []
    assert mini.run([f"runs_dir={tmp_path}", "sep-moons-table1", "rank_mlp"], pretend) == 3
    text = (tmp_path / "siblings.html").read_text()
    assert "Separation, Table 1: two moons, 50 layers of 4 units" in text
    assert "Optima of small norm" in text  # what is computed stands on it as well
    assert statuses == [0, 3]
    with pytest.raises(UserError, match="unknown 'rnak'; did you mean 'rank'"):
        mini.run(["rnak"], pretend)
