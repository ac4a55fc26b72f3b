"""The paper's figures: their lines, bands, labels and captions, read off the figure objects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farkas_exp.report import style
from farkas_exp.report.command import main
from farkas_exp.runs import collect
from farkas_exp.studies.farkas.figures import FIGURES, controls_figures, table_figure
from farkas_exp.studies.farkas.filling import change_text, fill
from farkas_exp.studies.farkas.paper import FIGURE5, TABLE1_SMALL_IMAGES, TABLES
from tests.made_runs import make_run, settings
from tests.paper_cells import cell_settings


def make_table(runs: Path, table: str, epochs: int = 8, seeds: int = 2) -> None:
    for wanted in TABLES[table].cells:
        for seed in range(seeds):
            make_run(runs, cell_settings(wanted, table, epochs=epochs), seed=seed, test_error=wanted.value + seed)


def test_figure4_has_a_panel_per_depth_and_a_line_and_a_band_per_regime(tmp_path: Path) -> None:
    make_table(tmp_path, "table1")
    figure = FIGURES["figure4"](collect(tmp_path))
    panels = figure.axes
    assert [axes.get_title() for axes in panels[:4]] == ["18 layers", "34 layers", "50 layers", "101 layers"]
    labels = [
        "test error (%)",
        "test error (%), end\nBN",
        "test error (%), end\nno BN",
        "training loss, running mean (nats)",
    ]
    assert [axes.get_ylabel() for axes in panels[::4]] == labels
    assert [axes.get_xlabel() for axes in panels[12:]] == ["epoch"] * 4
    for axes, lines in zip(panels, [4] * 4 + [2] * 8 + [4] * 4, strict=True):
        assert len(axes.get_lines()) == len(axes.collections) == lines
    looks = [(line.get_color(), line.get_linestyle()) for line in panels[0].get_lines()]
    plain, farkas = style.KIND_COLORS["plain"], style.KIND_COLORS["farkas"]
    assert looks == [(plain, "-"), (farkas, "-"), (plain, ":"), (farkas, ":")], "dotted omits batch norm"
    last = [line.get_ydata()[-1] for line in panels[3].get_lines()]
    assert last == pytest.approx([value + 0.5 for value in (4.95, 4.98, 25.25, 15.38)])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [row.label for row in TABLES["table1"].rows]
    caption = legend.get_title().get_text()
    assert "mean over n = 2 seeds" in caption
    assert "epochs 8 (paper: 200)" in caption


def test_the_legend_names_the_lines_with_their_looks(tmp_path: Path) -> None:
    make_table(tmp_path, "table4")
    figure = FIGURES["figure3"](collect(tmp_path))
    (legend,) = figure.legends
    handles = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()]
    lines = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()]
    assert handles == lines
    assert len(set(handles)) == 4
    labels = ["test error (%)", "test error (%), end", "training loss, running mean (nats)"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels, "one line with batch norm has no end of its own"


@pytest.mark.parametrize(("name", "table"), [("figure3", "table4"), ("figure4", "table1"), ("figure6", "table2")])
def test_the_final_differences_are_drawn_several_times_larger(tmp_path: Path, name: str, table: str) -> None:
    make_table(tmp_path, table, epochs=10, seeds=1)
    figure = FIGURES[name](collect(tmp_path))
    columns = len(TABLES[table].columns)
    rows = [figure.axes[start : start + columns] for start in range(0, len(figure.axes), columns)]
    ends = [row for row in rows if "end" in row[0].get_ylabel()]
    assert len(ends) == (1 if table == "table4" else 2)
    for row in ends:
        for whole, axes in zip(rows[0], row, strict=True):
            assert np.ptp(whole.get_ylim()) > 4 * np.ptp(axes.get_ylim())
            assert all(list(line.get_xdata()) == [9, 10] for line in axes.get_lines())
    shown = {line.get_ydata()[-1] for row in ends for axes in row for line in axes.get_lines()}
    assert shown == {wanted.value for wanted in TABLES[table].cells}


def test_figures_2_and_7_show_the_first_epochs_and_all(tmp_path: Path) -> None:
    make_table(tmp_path, "table3", epochs=29, seeds=1)
    first, whole = (FIGURES[name](collect(tmp_path)) for name in ("figure2", "figure7"))
    for figure, length in ((first, 5), (whole, 29)):
        assert [axes.get_title() for axes in figure.axes[:3]] == ["50 layers", "101 layers", "152 layers"]
        assert all(len(line.get_xdata()) == length for axes in figure.axes[:3] for line in axes.get_lines())
        assert figure.axes[0].get_ylabel() == "top-1 error (%)"
        looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()]
        assert looks == [(style.KIND_COLORS["plain"], "-"), (style.KIND_COLORS["farkas"], ":")]
        caption = figure.legends[0].get_title().get_text()
        assert "Dotted lines: FarkasNet." in caption
        assert "Line: one run." in caption
        assert "band" not in caption


@pytest.mark.parametrize(("errors", "ends"), [((0.0, 0.0, 60.0), (0, 54.641)), ((40.0, 100.0, 100.0), (45.359, 100))])
def test_no_band_leaves_0_to_100_percent(
    tmp_path: Path, errors: tuple[float, ...], ends: tuple[float, float]
) -> None:  # fmt: skip
    wanted = TABLES["table1"].cells[0]
    for seed, error in enumerate(errors):
        make_run(tmp_path, cell_settings(wanted, "table1", epochs=4), seed=seed, test_error=error)
    figure = FIGURES["figure4"](collect(tmp_path))
    (band,) = figure.axes[0].collections
    last = [y for x, y in band.get_paths()[0].vertices if x == 4]
    assert (min(last), max(last)) == pytest.approx(ends, abs=0.001)


def test_a_run_under_way_has_no_end_yet(tmp_path: Path) -> None:
    plain, farkas = (TABLES["table4"].cells[index] for index in (0, 3))
    make_run(tmp_path, cell_settings(plain, "table4", epochs=20), test_error=7.0)
    make_run(tmp_path, cell_settings(farkas, "table4", epochs=20), state="running", epoch=5, test_error=40.0)
    figure = FIGURES["figure3"](collect(tmp_path))
    lengths = [[len(line.get_xdata()) for line in axes.get_lines()] for axes in figure.axes]
    assert lengths == [[20, 5], [4], [20, 5]], "the whole, the last fifth, and the loss"


@pytest.mark.parametrize("draw", [FIGURES["figure5"], lambda records: table_figure(FIGURE5, records, "its report")])
def test_figure5_shows_the_failed_runs(tmp_path: Path, draw: Any) -> None:
    farkas, plain = FIGURE5.cells[:2]
    for seed in range(3):
        make_run(tmp_path, cell_settings(farkas, epochs=9), seed=seed, test_error=9.0)
        make_run(tmp_path, cell_settings(plain, epochs=9), seed=seed, state="failed", epoch=5, test_error=90.0)
    figure = draw(collect(tmp_path))
    axes = figure.axes[0]
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert [float(line.get_xdata()[0]) for line in crosses] == [5.0] * 3
    assert {line.get_color() for line in crosses} == {style.KIND_COLORS["plain"]}
    assert "Failed runs (thin lines that end in a cross): ResNet101: 3." in (figure.legends[0].get_title().get_text())


def test_a_panel_without_a_line_says_so_and_every_panel_has_its_numbers(tmp_path: Path) -> None:
    trained, diverged = (TABLES["table1"].cells[index] for index in (0, 1))
    make_run(tmp_path, cell_settings(trained, "table1", epochs=4), seed=0, test_error=9.0)
    make_run(tmp_path, cell_settings(diverged, "table1", epochs=4), seed=0, state="failed", epoch=2)
    figure = FIGURES["figure4"](collect(tmp_path))
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes if axes.get_visible()]
    assert texts == [[], ["no run to draw"], [], [], ["no run to draw"]]
    assert all(axes.yaxis.get_tick_params()["labelleft"] for axes in figure.axes)


def test_failed_runs_are_left_out_of_a_tables_figure_and_counted(tmp_path: Path) -> None:
    make_table(tmp_path, "table2")
    wanted = next(c for c in TABLES["table2"].cells if c.failed)
    make_run(tmp_path, cell_settings(wanted, "table2", epochs=8), seed=2, state="failed", epoch=5, test_error=99.0)
    figure = FIGURES["figure6"](collect(tmp_path))
    assert "Failed runs (left out): ResNet (no BN, small LR), 50 layers: 1." in figure.legends[0].get_title().get_text()
    line = figure.axes[1].get_lines()[2]
    assert line.get_ydata()[-1] == pytest.approx(55.05 + 0.5)


def test_a_partial_table_has_only_the_panels_that_there_are_runs_for(tmp_path: Path) -> None:
    for wanted in TABLES["table1"].cells:
        if wanted.column in ("18 layers", "50 layers"):
            make_run(tmp_path, cell_settings(wanted, epochs=3))
    figure = FIGURES["figure4"](collect(tmp_path))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["18 layers", "50 layers"]


@pytest.mark.parametrize("name", ["figure3", "figure4", "controls"])
def test_nothing_overlaps_and_nothing_is_cut(tmp_path: Path, name: str) -> None:
    if name == "controls":
        make_controls(tmp_path)
    else:
        make_table(tmp_path, {"figure3": "table4", "figure4": "table1"}[name])
    figure = controls(tmp_path) if name == "controls" else FIGURES[name](collect(tmp_path))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    legend = figure.legends[0].get_window_extent(renderer)
    assert legend.x0 >= 0
    assert legend.y0 >= 0
    assert legend.x1 <= figure.bbox.x1
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    for index, box in enumerate(boxes):
        assert box.y0 >= legend.y1 - 1
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_the_command_draws_what_there_are_runs_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, cell_settings(TABLES["table1"].cells[0], epochs=2))
    assert main(["figures", f"runs_dir={tmp_path}", "format=png"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: no runs for it" in out for name in ("figure2", "figure5", "figure6", "figure7"))
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == ["figure1.png", "figure4.png"]


def test_figure5_has_a_line_for_each_of_its_arms(tmp_path: Path) -> None:
    for index, wanted in enumerate(FIGURE5.cells):
        config = cell_settings(wanted, epochs=5)
        config["model"]["variant"] = wanted.row.variant
        make_run(tmp_path, config, test_error=9.0 + index)
    figure = FIGURES["figure5"](collect(tmp_path))
    assert [line.get_ydata()[-1] for line in figure.axes[0].get_lines()] == [9.0, 10.0, 11.0, 12.0, 13.0, 14.0]
    assert {line.get_linestyle() for line in figure.axes[0].get_lines()} == {"-"}, "none has batch norm"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(labels)) == 6
    assert {"FarkasNet101, sum", "FarkasNet101, mean, zero last"} < set(labels)


def test_a_figure_of_failed_runs_alone_shows_them_and_no_empty_end(tmp_path: Path) -> None:
    wanted = TABLES["table4"].cells[0]
    make_run(tmp_path, cell_settings(wanted, "table4", epochs=9), state="failed", epoch=5, test_error=90.0)
    figure = FIGURES["figure3"](collect(tmp_path))
    assert [axes.get_ylabel().partition(",")[0] for axes in figure.axes] == ["test error (%)", "training loss"]
    assert [line.get_marker() for line in figure.axes[0].get_lines()] == ["None", "x"]
    assert "band" not in figure.legends[0].get_title().get_text()


SIXTH = {"init__last_scale": 1 / 6}
HE = {"init__name": "kaiming"}


def make_controls(runs: Path, **more: Any) -> None:
    """Table 1's networks without batch norm at 18 and 50 layers, and some of their control arms."""
    for index, wanted in enumerate(TABLES["table1"].cells):
        if wanted.row.normalization == "none" and wanted.column in ("18 layers", "50 layers"):
            make_run(runs, cell_settings(wanted, epochs=10, **more), test_error=40.0 + index)
            make_run(runs, cell_settings(wanted, epochs=10, **HE, **more), test_error=20.0 + index)
            if wanted.row.family == "farkasnet":
                arm = cell_settings(wanted, epochs=10, aggregation__append=False, **more)
                make_run(runs, arm, test_error=60.0 + index)


def controls(runs: Path, name: str = "table1_controls") -> Any:
    """One of the figures of the control arms."""
    return controls_figures(fill(TABLES["table1"], collect(runs)))[name]()


def test_control_arms_have_a_row_for_each_network_with_the_tables_own_in_all(tmp_path: Path) -> None:
    make_controls(tmp_path)
    figure = controls(tmp_path)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    rows = ["ResNet\ntest error (%)", "FarkasNet\ntest error (%)"]
    assert [axes.get_ylabel() for axes in panels[::2]] == rows + [f"{row}, end" for row in rows]
    assert [axes.get_title() for axes in panels[:2]] == ["18 layers", "50 layers"]
    last = [sorted(line.get_ydata()[-1] for line in axes.get_lines()) for axes in panels]
    resnet, farkas = [28.0, 48.0, 52.0], [32.0, 48.0, 52.0, 72.0]
    assert last == 2 * [*_with_next(resnet), *_with_next(farkas)]
    assert all(list(line.get_xdata()) == [9, 10] for axes in panels[4:] for line in axes.get_lines())
    assert len({axes.get_ylim() for axes in panels[:4]}) == 1, "one scale for all that are compared"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "ResNet (no BN, small LR)", "FarkasNet (no BN, small LR)", "init kaiming", "without append"
    ]  # fmt: skip
    looks = [[(line.get_color(), line.get_linestyle()) for line in axes.get_lines()] for axes in panels[:4]]
    own = [(style.KIND_COLORS[name], "-") for name in ("plain", "farkas")]
    assert all(each[:2] == own for each in looks)
    assert looks[0][2] == looks[2][2], "the same change has one colour in both rows"
    assert len(set(looks[2])) == 4


def _with_next(errors: list[float]) -> list[list[float]]:
    """The errors at 18 layers, and those at 50, two cells on."""
    return [errors, [error + 2 for error in errors]]


def test_a_failed_control_is_drawn_to_its_end_in_its_own_row_and_named_by_its_network(tmp_path: Path) -> None:
    make_controls(tmp_path)
    wanted = next(c for c in TABLES["table1"].cells if (c.model, c.row.normalization) == ("resnet50", "none"))
    arm = cell_settings(wanted, epochs=10, **HE)
    make_run(tmp_path, arm, seed=1, state="failed", epoch=3, test_error=90.0, reason="loss is not finite")
    figure = controls(tmp_path)
    crosses = [sum(line.get_marker() == "x" for line in axes.get_lines()) for axes in figure.axes]
    assert crosses == [0, 1, 0, 0, 0, 0, 0, 0]
    caption = figure.legends[0].get_title().get_text()
    assert "ResNet50, init kaiming, 50 layers: 1." in caption
    assert max(map(len, caption.splitlines())) <= 100


def test_controls_that_all_failed_or_are_under_way_have_no_empty_end(tmp_path: Path) -> None:
    plain, farkas = (c for c in TABLES["table1"].cells if (c.column, c.row.normalization) == ("18 layers", "none"))
    for wanted in (plain, farkas):
        make_run(tmp_path, cell_settings(wanted, epochs=10), state="running", epoch=2, test_error=80.0)
        make_run(tmp_path, cell_settings(wanted, epochs=10, **HE), state="failed", epoch=5, test_error=90.0)
    assert [axes.get_ylabel().partition("\n")[0] for axes in controls(tmp_path).axes] == ["ResNet", "FarkasNet"]
    make_run(tmp_path, cell_settings(farkas, epochs=10, aggregation__append=False), test_error=50.0)
    labels = [axes.get_ylabel().replace("\ntest error (%)", "") for axes in controls(tmp_path).axes]
    assert labels == ["ResNet", "FarkasNet", "FarkasNet, end"]


def test_controls_with_batch_norm_have_a_figure_of_their_own_and_without_controls_there_is_none(tmp_path: Path) -> None:
    make_table(tmp_path, "table1", seeds=1)
    assert controls_figures(fill(TABLES["table1"], collect(tmp_path))) == {}
    wanted = TABLES["table1"].cells[0]
    make_run(tmp_path, cell_settings(wanted, epochs=8, model__head_bn=True), test_error=9.0)
    assert list(controls_figures(fill(TABLES["table1"], collect(tmp_path)))) == ["table1_controls_batch"]
    figure = controls(tmp_path, "table1_controls_batch")
    assert len(figure.axes) == 2, "one depth: side by side"
    assert [line.get_ydata()[-1] for line in figure.axes[0].get_lines()] == [7.01, 6.87, 9.0]


def test_a_table_with_several_rows_of_a_network_has_no_controls_beside_them(tmp_path: Path) -> None:
    for wanted in FIGURE5.cells[:2]:
        make_run(tmp_path, cell_settings(wanted, epochs=5), test_error=9.0)
    make_run(tmp_path, cell_settings(FIGURE5.cells[1], epochs=5, **SIXTH), test_error=9.0)
    filled = fill(FIGURE5, collect(tmp_path))
    assert filled.others
    assert controls_figures(filled) == {}


@pytest.mark.parametrize(
    ("model", "changes", "text"),
    [
        ("resnet18", {}, ""),
        ("resnet18", {**HE, **SIXTH, "aggregation__name": "mean"}, "init kaiming, init.last_scale 0.166667"),
        ("farkasnet18", {"aggregation__name": "mean"}, "mean"),
        ("farkasnet18", {"aggregation__append": False, "aggregation__margin": 1e-3},
         "aggregation.margin 0.001, without append"),
        ("farkasnet18", {"lr__value": 0.1, "model__variant": "authors"}, "model.variant authors, lr 0.1"),
    ],
)  # fmt: skip
def test_an_arm_is_called_by_what_it_changes(tmp_path: Path, model: str, changes: dict[str, Any], text: str) -> None:
    wanted = next(c for c in TABLE1_SMALL_IMAGES.cells if (c.model, c.row.normalization) == (model, "none"))
    make_run(tmp_path, cell_settings(wanted) | settings(model, normalization__name="none", **changes))
    (record,) = collect(tmp_path)
    assert change_text(record.config, wanted, TABLE1_SMALL_IMAGES) == text
