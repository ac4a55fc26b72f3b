"""The table of arms and its curves, from made run directories in every state that a trainer can leave."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farkas_exp.registry import NETWORKS
from farkas_exp.report import style
from farkas_exp.report.arms import Arm, arm_labels, arms_table, group_arms, mean_sd
from farkas_exp.report.command import main
from farkas_exp.report.curves import arm_curve, curves_figure, line_text, looks
from farkas_exp.report.statistics import Summary
from farkas_exp.report.tables import Table, cell, to_csv, to_html, to_latex, to_markdown, to_terminal
from farkas_exp.runs import RunRecord, collect, survey
from tests.made_runs import made_rows, make_run, settings
from tests.markup import check_html, check_latex
from tests.paths import ROOT

AT_CHANCE = "test error at chance in 5 epochs"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four arms: complete, one run failed, all failed, one running (with a torn line) and one crashed."""
    root = tmp_path / "runs"
    bn = settings("resnet18", normalization__name="batch", lr__value=0.1, epochs=6)
    plain, farkas = (settings(model, epochs=6) for model in ("resnet18", "farkasnet18"))
    dead = settings("resnet101", epochs=6)
    for seed, error in enumerate((7.0, 8.0, 9.0)):
        make_run(root, bn, seed=seed, test_error=error)
    make_run(root, plain, seed=0, test_error=12.0)
    make_run(root, plain, seed=1, state="failed", epoch=5, test_error=90.0, reason=AT_CHANCE)
    make_run(root, plain, seed=2, test_error=13.0)
    make_run(root, farkas, seed=0, test_error=10.5)
    path = make_run(root, farkas, seed=1, state="crashed", epoch=2)
    with open(path / "metrics.jsonl", "a") as handle:
        handle.write('{"epoch": 3, "test_er')
    make_run(root, dead, seed=0, state="failed", epoch=1, test_error=math.nan, reason="loss is not finite")
    make_run(root, dead, seed=1, state="failed", test_error=math.nan, reason=AT_CHANCE)
    return root


def by_label(runs: Path) -> dict[str, Arm]:
    return {arm.label: arm for arm in group_arms(collect(runs))}


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    return {row[0].texts[0]: dict(zip(table.columns, (c.texts[0] for c in row), strict=True)) for row in table.rows}


def test_arms_are_labelled_by_what_differs(runs: Path) -> None:
    assert list(by_label(runs)) == [
        "ResNet18, BN, lr 0.1", "ResNet18, no BN, lr 0.01", "FarkasNet18, no BN, lr 0.01", "ResNet101, no BN, lr 0.01",
    ]  # fmt: skip


def test_labels_name_every_difference_and_nothing_else() -> None:
    configs = {
        "a": settings("farkasnet18", aggregation={"name": "sum"}, seed=0, init__last_scale=1.0),
        "b": settings("farkasnet18", aggregation={"name": "mean"}, seed=5, init__last_scale=0.125),
        "c": settings("resnet18", aggregation={"name": "mean"}, init__last_scale=1.0, runs_dir="elsewhere"),
        "d": settings("resnet18", aggregation={"name": "sum"}, init__last_scale=1.0, arm="control"),
    }
    assert arm_labels(configs) == {
        "a": "FarkasNet18, no BN, sum, init.last_scale 1", "b": "FarkasNet18, no BN, mean, init.last_scale 0.125",
        "c": "ResNet18, no BN, init.last_scale 1", "d": "ResNet18, no BN, init.last_scale 1",
    }  # fmt: skip


def test_a_complete_arm_has_mean_sd_and_n(runs: Path) -> None:
    row = rows_of(arms_table(group_arms(collect(runs))))["ResNet18, BN, lr 0.1"]
    assert row["test error (%)"] == "8.00 ± 1.00"
    assert (row["n"], row["failed"], row["train error (%)"], row["not finished"]) == ("3", "0", "4.00", "")


def test_a_failed_run_is_left_out_counted_marked_and_explained(runs: Path) -> None:
    table = arms_table(group_arms(collect(runs)))
    row = rows_of(table)["ResNet18, no BN, lr 0.01"]
    assert row["test error (%)"] == "12.50 ± 0.71*"
    assert (row["n"], row["failed"]) == ("2", "1")
    (note,) = [note for note in table.notes if note.startswith("* ResNet18, no BN")]
    assert "1 of 3 failed to train, left out of the mean" in note
    assert f"seed 1: {AT_CHANCE}" in note


def test_all_failed_says_so(runs: Path) -> None:
    table = arms_table(group_arms(collect(runs)))
    row = rows_of(table)["ResNet101, no BN, lr 0.01"]
    assert row["test error (%)"] == "all 2 failed*"
    assert (row["n"], row["failed"], row["train error (%)"]) == ("0", "2", "–")
    (note,) = [note for note in table.notes if note.startswith("* ResNet101")]
    assert f"seed 0: loss is not finite; seed 1: {AT_CHANCE}" in note


def test_a_finished_run_without_an_error_is_named_and_not_done(runs: Path) -> None:
    path = make_run(runs, settings("resnet101", epochs=6), seed=2, state="finished", test_error=math.nan)
    found = survey(runs)
    assert [str(each) for each in found.unreadable] == [f"{path} (result.json is damaged; the run counts as not done)"]
    row = rows_of(arms_table(group_arms(found.records)))["ResNet101, no BN, lr 0.01"]
    assert (row["failed"], row["not finished"]) == ("2", "seed 2 interrupted 6/6")


def test_what_is_not_finished_or_missing_is_said(runs: Path) -> None:
    row = rows_of(arms_table(group_arms(collect(runs))))["FarkasNet18, no BN, lr 0.01"]
    assert row["test error (%)"] == "10.50", "one run has no standard deviation"
    assert row["not finished"] == "seed 1 crashed at 2/6, seed 2 missing"


def test_seeds_that_follow_each_other_are_a_range(tmp_path: Path) -> None:
    for seed in range(101):
        make_run(tmp_path, settings("resnet18", epochs=1), seed=seed)
    for seed in (0, 1, 8, 9, 10, 11):
        make_run(tmp_path, settings("farkasnet18", epochs=1), seed=seed, state="failed", reason="diverged")
    make_run(tmp_path, settings("farkasnet18", epochs=1), seed=3, state="interrupted", epoch=0)
    table = arms_table(group_arms(collect(tmp_path)))
    row = rows_of(table)["FarkasNet18, no BN"]
    assert row["not finished"] == "seed 3 interrupted 0/1, seeds 2, 4 to 7, 12 to 100 missing"
    assert "6 of 6 failed to train; there is no mean (seeds 0, 1, 8 to 11: diverged)" in table.notes[-1]


def test_each_evaluation_set_has_a_column_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path, settings("resnet18"), test_error=10.0)
    held_out = {"test_error": None, "validation_error": 20.0}
    make_run(tmp_path, settings("resnet34", dataset__validation=0.1), result=held_out)
    table = arms_table(group_arms(collect(tmp_path)))
    shown = [(row["test error (%)"], row["validation error (%)"]) for row in rows_of(table).values()]
    assert shown == [("10.00", "–"), ("–", "20.00")]
    only = arms_table(group_arms([run for run in collect(tmp_path) if run.evaluated_on == "validation"]))
    assert [column for column in only.columns if "error" in column] == ["validation error (%)", "train error (%)"]


def test_no_column_for_the_unfinished_where_all_is_finished(tmp_path: Path) -> None:
    make_run(tmp_path, settings(epochs=3))
    assert "not finished" not in arms_table(group_arms(collect(tmp_path))).columns


def test_an_arm_that_only_runs_shows_how_far(tmp_path: Path) -> None:
    make_run(tmp_path, settings(epochs=200), state="interrupted", epoch=120)
    row = rows_of(arms_table(group_arms(collect(tmp_path))))["ResNet18, no BN"]
    assert row["test error (%)"] == "interrupted 120/200"


def test_mean_and_sd_are_written_with_two_digits() -> None:
    assert mean_sd(Summary(6.8749, 0.116, 3)) == "6.87 ± 0.12"
    assert mean_sd(Summary(6.0, None, 1)) == "6.00"


def test_csv_has_unrounded_numbers_and_the_settings(runs: Path) -> None:
    table = arms_table(group_arms(collect(runs)))
    records = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [record["arm"] for record in records] == list(by_label(runs))
    plain = records[1]
    assert float(plain["test_error_sd"]) == pytest.approx(math.sqrt(0.5))
    assert plain["seeds"] == "0 2", "those of the mean"
    assert (plain["n"], plain["failed"], plain["model.name"], plain["lr.value"]) == ("2", "1", "resnet18", "0.01")
    assert records[3]["test_error_mean"] == ""
    assert "runs_dir" not in plain


def test_csv_says_where_a_mean_is_over_fewer_runs_than_the_row(tmp_path: Path) -> None:
    for seed, more in enumerate(({"train_eval_error": 5.0}, {})):
        make_run(tmp_path, settings(), seed=seed, result=more)
    (record,) = arms_table(group_arms(collect(tmp_path))).records
    assert (record["n"], record["train_eval_error_mean"], record["train_eval_error_n"]) == (2, 5.0, 1)
    assert "train_error_n" not in record


def test_latex_is_balanced_and_every_row_has_every_column(runs: Path) -> None:
    check_latex(to_latex(arms_table(group_arms(collect(runs)))))


def test_every_special_character_survives_every_rendering() -> None:
    wild = r"a|b*c_d %&#${}~^<i>\ [x] `y` ± − × ·"
    table = Table(wild, ("x", "y"), ((cell(wild, "second"), cell("1", marker="*", strong=True)),), (wild,))
    check_latex(to_latex(table))
    markdown = to_markdown(table)
    (row,) = [line for line in markdown.splitlines() if "second" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert r"**1\***" in row
    assert "<i>" not in to_html(table)
    out = io.StringIO()
    to_terminal(table, out)
    assert wild in out.getvalue()
    assert "second" in out.getvalue()


def test_curve_is_mean_and_sd_over_the_finished_runs(runs: Path) -> None:
    arm = by_label(runs)["ResNet18, no BN, lr 0.01"]
    curve = arm_curve(arm, "test_error")
    expected = np.array([[row["test_error"] for row in made_rows(6, e, s)] for s, e in ((0, 12.0), (2, 13.0))])
    assert curve.n == 2
    assert curve.epochs.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(curve.mean, expected.mean(0))
    np.testing.assert_allclose(curve.sd, expected.std(0, ddof=1))


def test_unfinished_runs_are_drawn_up_to_where_all_of_them_are(tmp_path: Path) -> None:
    for seed, epoch in ((0, 4), (1, 2)):
        make_run(tmp_path, settings(epochs=9), seed=seed, state="interrupted", epoch=epoch)
    (arm,) = group_arms(collect(tmp_path))
    curve = arm_curve(arm, "train_loss")
    assert (len(curve.epochs), curve.n) == (2, 2)


def test_null_in_the_metrics_is_a_gap(tmp_path: Path) -> None:
    rows = made_rows(3, 10.0)
    rows[1]["train_loss"] = None
    make_run(tmp_path, settings(epochs=3), rows=rows)
    (arm,) = group_arms(collect(tmp_path))
    curve = arm_curve(arm, "train_loss")
    assert np.isnan(curve.mean).tolist() == [False, True, False]


def test_the_training_loss_is_that_after_the_epoch_where_all_runs_have_it(tmp_path: Path) -> None:
    after = [{**row, "train_eval_loss": 7.0} for row in made_rows(3, 10.0)]
    for seed in (0, 1):
        make_run(tmp_path, settings(epochs=3), seed=seed, rows=after, result={"train_eval_loss": 7.0})
    panel = curves_figure(group_arms(collect(tmp_path))).axes[1]
    assert panel.get_ylabel() == "training loss after the epoch (nats)"
    assert panel.get_lines()[0].get_ydata().tolist() == [7.0, 7.0, 7.0]
    make_run(tmp_path, settings(epochs=3), seed=2)
    panel = curves_figure(group_arms(collect(tmp_path))).axes[1]
    assert panel.get_ylabel() == "training loss, running mean (nats)"
    assert panel.get_lines()[0].get_ydata().max() < 7.0


def test_figure_has_a_line_per_arm_a_band_per_arm_with_seeds_and_names_what_is_not_drawn(runs: Path) -> None:
    arms = group_arms(collect(runs))
    figure = curves_figure(arms)
    panels = figure.axes
    assert [axes.get_ylabel() for axes in panels] == ["test error (%)", "training loss, running mean (nats)"]
    for axes in panels:
        assert axes.get_xlabel() == "epoch"
        assert len(axes.get_lines()) == 3
        assert len(axes.collections) == 2, "bands: one arm has a single finished run"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "ResNet18, BN, lr 0.1 (n = 3)", "ResNet18, no BN, lr 0.01 (n = 2, 1 failed)",
        "FarkasNet18, no BN, lr 0.01 (n = 1)",
    ]  # fmt: skip
    assert "Not drawn: ResNet101, no BN, lr 0.01 (failed runs: 2)" in legend.get_title().get_text()
    bn, plain, farkas = panels[0].get_lines()
    assert (bn.get_linestyle(), plain.get_linestyle(), farkas.get_linestyle()) == ("-", ":", ":")
    assert bn.get_color() == plain.get_color() == style.KIND_COLORS["plain"]
    assert farkas.get_color() == style.KIND_COLORS["farkas"]
    last = bn.get_ydata()[-1]
    assert last == pytest.approx(8.0)
    band = panels[0].collections[0].get_paths()[0].vertices
    at_end = band[np.isclose(band[:, 0], 6.0), 1]
    assert (at_end.min(), at_end.max()) == (pytest.approx(7.0), pytest.approx(9.0))


def test_the_parts_of_the_figure_do_not_overlap_and_are_not_cut(runs: Path) -> None:
    figure = curves_figure(group_arms(collect(runs)))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    legend = figure.legends[0].get_window_extent(renderer)
    assert figure.bbox.y0 <= legend.y0
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    for axes in figure.axes:
        assert axes.get_tightbbox(renderer).y0 >= legend.y1


def done(**configs: dict[str, Any]) -> list[Arm]:
    """An arm of one finished run for each configuration, by identity."""
    return group_arms(
        RunRecord(Path(f"/nowhere/{name}"), name, "", 0, config, "finished", 1, 1, {})
        for name, config in configs.items()
    )


def test_a_network_from_outside_has_the_place_and_the_colour_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(NETWORKS), "the package's own are there"
    monkeypatch.setattr(NETWORKS, "_entries", dict(NETWORKS._entries))
    NETWORKS.register("my2net", "my:net", twin="my2farkas", depth=20)
    NETWORKS.register("my2farkas", "my:net", farkas=True, depth=20)
    order = ["gone99", "resnet18", "my2net", "my2farkas", "resnet34", "fixup34", "resnet50_imagenet"]
    arms = done(**{name: settings(name) for name in reversed(order)})
    assert [arm.identity for arm in arms] == order
    for name, kind in {"my2net": "plain", "my2farkas": "farkas", "fixup34": "fixup"}.items():
        (look,) = looks([arm for arm in arms if arm.identity == name]).values()
        assert look.color == style.KIND_COLORS[kind]
    assert looks(arms)["gone99"].color not in style.KIND_COLORS.values(), "nobody knows its kind"


def test_two_normalizations_of_one_line_do_not_look_the_same() -> None:
    arms = done(**{name: settings("resnet18", normalization__name=name) for name in ("layer", "rms", "dyt")})
    assert len({(look.color, str(look.line), look.marker) for look in looks(arms).values()}) == 3


def test_command_writes_every_file_and_prints_table_and_paths(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"runs_dir={runs}", "format=md,csv,tex,html,png,pdf"]) == 0
    out = capsys.readouterr().out
    files = sorted(path.name for path in (runs / "report").iterdir())
    assert files == ["arms.csv", "arms.html", "arms.md", "arms.pdf", "arms.png", "arms.tex"]
    assert "8.00 ± 1.00" in out
    assert all(str(runs / "report" / name) in out for name in files)
    assert (runs / "report" / "arms.png").read_bytes().startswith(b"\x89PNG")
    assert (runs / "report" / "arms.pdf").read_bytes().startswith(b"%PDF")


def test_html_is_self_contained(runs: Path, tmp_path: Path) -> None:
    assert main([f"runs_dir={runs}", f"out={tmp_path / 'out'}", "format=html"]) == 0
    text = (tmp_path / "out" / "arms.html").read_text()
    check_html(text)
    assert "8.00 ± 1.00" in text


def test_filters_choose_runs_by_configuration_and_seed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"runs_dir={runs}", "normalization=batch", "seed=0,1,9", "format=none"]) == 0
    out = capsys.readouterr().out
    assert "No run with seed=9." in out
    assert "7.50 ± 0.71" in out
    assert "FarkasNet" not in out
    assert not (runs / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel1"], "report: unknown 'tabel1'; did you mean 'table1'"),
        (["rundir=x"], "rundir: unknown 'rundir'; did you mean 'runs_dir'"),
        (["format=docx"], "format: unknown 'docx'"),
        (["out="], "out: a value is missing"),
        (["out=a", "out=b"], "out: given twice"),
        (["dataset=a", "dataset.name=b"], "given twice"),
        (["runs_dir=/nowhere/at/all"], "no folder /nowhere/at/all"),
        (["dataset=digits"], "no run in {runs} with dataset.name=digits"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [] if any(a.startswith("runs_dir=") for a in arguments) else [f"runs_dir={runs}"]
    assert main([*arguments, *given]) == 2
    captured = capsys.readouterr()
    assert message.format(runs=runs) in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_folder_without_runs_is_a_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"runs_dir={tmp_path}"]) == 2
    assert f"no run in {tmp_path}" in capsys.readouterr().err


def test_importing_the_report_is_light() -> None:
    code = (
        "import sys, farkas_exp.report.command, farkas_exp.report.render, json\n"
        "print(json.dumps([m for m in ('torch', 'wandb', 'matplotlib', 'scipy', 'hydra') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


def test_help_names_what_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("arms", "table1", "runs_dir", "format"))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([1, 1], "Line: one run."),
        ([3, 3], "Line: mean over n = 3 seeds; band: ± 1 standard deviation."),
        ([1, 3], "Line: mean over n = 1–3 seeds; band: ± 1 standard deviation (none for n = 1)."),
    ],
)
def test_a_caption_speaks_of_means_and_bands_where_there_are_some(counts: list[int], said: str) -> None:
    assert line_text(counts) == said


def test_settings_that_differ_after_six_digits_have_labels_of_their_own() -> None:
    configs = {str(rate): settings(lr__value=rate) for rate in (0.1, 0.1000001, 0.2)}
    assert [label.rpartition(" ")[2] for label in arm_labels(configs).values()] == ["0.1", "0.1000001", "0.2"]
