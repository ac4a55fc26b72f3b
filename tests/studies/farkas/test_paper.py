"""The paper's tables: its numbers, which runs belong to which cell, and how a cell reads in every state."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.registry import NETWORKS
from farkas_exp.report.command import main
from farkas_exp.report.tables import to_csv, to_latex
from farkas_exp.runs import RunDirectory, RunRecord, collect, write_json
from farkas_exp.runs.query import outcome
from farkas_exp.studies.farkas.filling import deviations, fill, required_settings
from farkas_exp.studies.farkas.paper import FIGURE5, FIXUP_RATES, TABLE3_MINI, TABLES, PaperTable
from farkas_exp.studies.farkas.paper_table import other_arms_tables, paper_table, signed
from tests.made_runs import make_run, settings
from tests.markup import check_html, check_latex
from tests.paper_cells import cell_settings, find


def text_of(runs: Path, table: str, model: str, normalization: str) -> tuple[str, ...]:
    wanted = find(table, model, normalization)
    rendered = paper_table(fill(TABLES[table], collect(runs)))
    (row,) = [row for row in rendered.rows if row[0].texts[0] == wanted.row.label]
    found = row[rendered.columns.index(wanted.column)]
    return found.texts


def numbers(table: str) -> list[list[float | None]]:
    t = TABLES[table]
    return [[c.value if (c := t.cell(row, column)) else None for column in t.columns] for row in t.rows]


def test_the_numbers_are_the_papers() -> None:
    assert numbers("table1") == [
        [7.01, 6.79, 5.04, 4.95], [6.87, 6.50, 5.03, 4.98], [12.51, 9.90, 24.53, 25.25], [10.83, 9.45, 19.84, 15.38],
    ]  # fmt: skip
    assert numbers("table2") == [
        [30.95, 23.43, 22.90], [30.34, 23.88, 23.22], [40.10, 55.05, 54.02], [34.70, 43.93, 42.94],
    ]  # fmt: skip
    assert numbers("table3") == [[25.64, 23.23, 22.26], [23.70, 23.74, 22.17]]
    assert [c.top5 for c in TABLES["table3"].cells] == [7.68, 6.49, 5.95, 6.65, 6.67, 5.86]
    assert numbers("table4") == [[6.77], [9.18], [7.49], [7.12]]
    assert [c.label for t in TABLES.values() for c in t.cells if c.failed] == ["ResNet (no BN, small LR), 50 layers"]


def test_cells_ask_for_the_papers_regimes() -> None:
    needs = required_settings(TABLES["table4"].rows[3], "farkasnet34")
    assert needs["lr.value"] == (0.05,)
    assert needs["aggregation.name"] == ("mean",)
    assert needs["init.name"] == ("zero_last",)
    assert needs["normalization.name"] == ("none",)
    for row in TABLES["table1"].rows:
        assert row.lr == (0.1 if row.normalization == "batch" else 0.01)
        assert (row.aggregation, row.init) == ("sum", "pytorch")
    assert {row.aggregation for row in TABLES["table3"].rows if row.family == "farkasnet"} == {"mean"}


@pytest.mark.parametrize("table", list(TABLES))
def test_every_cell_takes_the_run_that_it_asks_for_and_no_other(tmp_path: Path, table: str) -> None:
    for wanted in TABLES[table].cells:
        make_run(tmp_path, cell_settings(wanted, table))
    filled = fill(TABLES[table], collect(tmp_path))
    assert set(filled.runs) == set(TABLES[table].cells)
    assert all(len(runs) == 1 and runs[0].config["model"]["name"] == c.model for c, runs in filled.runs.items())
    assert not filled.deviations
    assert not filled.others
    assert not filled.left_out


@pytest.mark.parametrize(
    "change",
    [
        {"init__name": "kaiming"}, {"init__last_scale": 1 / 6}, {"init__name": "orthogonal", "init__gain": 2.0},
        {"lr__value": 0.1},
        {"aggregation__name": "mean"}, {"aggregation__margin": 0.1}, {"normalization__name": "layer"},
        {"model__variant": "authors"}, {"model__head_bn": True}, {"model__blocks": [1, 1, 1, 1]},
        {"activation__name": "elu"},
    ],
)  # fmt: skip
def test_a_control_arm_is_never_taken_for_the_papers(tmp_path: Path, change: dict[str, Any]) -> None:
    wanted = find("table1", "farkasnet18", "none")
    make_run(tmp_path, cell_settings(wanted))
    make_run(tmp_path, cell_settings(wanted, **change), test_error=1.0)
    filled = fill(TABLES["table1"], collect(tmp_path))
    assert [len(runs) for runs in filled.runs.values()] == [1]
    others = other_arms_tables(filled)[0]
    (row,) = others.rows
    assert row[1].texts[0] == "1.00"


def test_the_other_reading_of_fixups_optimizer_stands_below_table_4(tmp_path: Path) -> None:
    wanted = find("table4", "fixup34", "none")
    make_run(tmp_path, cell_settings(wanted, "table4"), test_error=7.5)
    make_run(tmp_path, cell_settings(wanted, "table4", optimizer__scalars="common"), test_error=8.5)
    filled = fill(TABLES["table4"], collect(tmp_path))
    assert [[outcome(run, "test_error") for run in runs] for runs in filled.runs.values()] == [[7.5]]
    (row,) = other_arms_tables(filled)[0].rows
    assert [row[0].texts[0], row[1].texts[0]] == ["FixUp34, no BN, lr 0.01, optimizer.scalars common", "8.50"]


def test_what_has_no_effect_does_not_matter(tmp_path: Path) -> None:
    wanted = find("table1", "resnet18", "none")
    make_run(tmp_path, cell_settings(wanted, aggregation__name="mean", model__head_bn=False))
    farkas = find("table1", "farkasnet18", "none")
    make_run(tmp_path, cell_settings(farkas, model__variant="paper"))
    assert fill(TABLES["table1"], collect(tmp_path)).runs.keys() == {wanted, farkas}


def test_a_seed_counts_once_in_a_cell_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    wanted = find("table1", "farkasnet18", "none")
    own, same = cell_settings(wanted), cell_settings(wanted, model__variant="paper")
    for seed, (done, begun) in enumerate(((own, same), (same, own))):
        make_run(tmp_path, done, seed=seed, test_error=12.0)
        make_run(tmp_path, begun, seed=seed, state="interrupted", epoch=3)
    make_run(tmp_path, cell_settings(wanted, model__head_bn=False), test_error=12.0)
    assert text_of(tmp_path, "table1", "farkasnet18", "none")[0] == "12.00 ± 0.00 (2)"
    (note,) = [n for n in paper_table(fill(TABLES["table1"], collect(tmp_path))).notes if n.startswith("Left out")]
    assert note.startswith("Left out: 3 runs of a seed that the cell has from another run")


def test_a_cell_has_mean_sd_n_the_papers_number_and_the_difference(tmp_path: Path) -> None:
    wanted = find("table1", "resnet101", "none")
    for seed, error in enumerate((25.0, 26.0, 27.0)):
        make_run(tmp_path, cell_settings(wanted), seed=seed, test_error=error)
    assert text_of(tmp_path, "table1", "resnet101", "none") == ("26.00 ± 1.00 (3)", "paper 25.25, +0.75")
    assert text_of(tmp_path, "table1", "resnet50", "none") == ("missing", "paper 24.53")


def test_failed_runs_are_left_out_marked_and_footnoted(tmp_path: Path) -> None:
    wanted = find("table2", "resnet50", "none")
    for seed, state in enumerate(("finished", "failed", "finished")):
        make_run(
            tmp_path, cell_settings(wanted, "table2"), seed=seed, state=state, test_error=55.0 + seed,
            reason="chance" if state == "failed" else None,
        )  # fmt: skip
    assert text_of(tmp_path, "table2", "resnet50", "none") == ("56.00 ± 1.41 (2)*", "paper 55.05*, +0.95")
    notes = paper_table(fill(TABLES["table2"], collect(tmp_path))).notes
    assert any("50 layers: 1 of 3 failed to train" in note and "seed 1: chance" in note for note in notes)


def test_all_failed_and_nan_and_running_and_partial(tmp_path: Path) -> None:
    for seed in range(2):
        wanted = find("table1", "resnet101", "none")
        make_run(tmp_path, cell_settings(wanted), seed=seed, state="failed", test_error=math.nan, reason="NaN")
        make_run(tmp_path, cell_settings(find("table1", "resnet50", "none")), seed=seed, state="interrupted", epoch=120)
    make_run(tmp_path, cell_settings(find("table1", "resnet34", "none")), state="failed", test_error=math.nan)
    make_run(tmp_path, cell_settings(find("table1", "resnet18", "none")), test_error=12.0)
    make_run(tmp_path, cell_settings(find("table1", "resnet18", "none")), seed=1, state="interrupted", epoch=7)
    assert text_of(tmp_path, "table1", "resnet101", "none") == ("all 2 failed*", "paper 25.25")
    assert text_of(tmp_path, "table1", "resnet50", "none") == ("interrupted 120/200", "paper 24.53")
    assert text_of(tmp_path, "table1", "resnet34", "none") == ("failed*", "paper 9.90")
    assert text_of(tmp_path, "table1", "resnet18", "none") == ("12.00 (1)", "paper 12.51, −0.51", "interrupted 7/200")


def test_a_running_run_says_how_far(tmp_path: Path) -> None:
    path = make_run(tmp_path, cell_settings(find("table1", "resnet18", "none")), state="running", epoch=120)
    with RunDirectory(path).locked():
        assert text_of(tmp_path, "table1", "resnet18", "none")[0] == "running 120/200"
    assert text_of(tmp_path, "table1", "resnet18", "none")[0] == "interrupted 120/200"


def test_top5_is_shown_where_the_runs_have_it(tmp_path: Path) -> None:
    wanted = find("table3", "farkasnet50_imagenet", "batch")
    make_run(tmp_path, cell_settings(wanted, "table3"), test_error=23.7, result={"test_error_top5": 6.6})
    expected = ("23.70 / 6.60 (1)", "paper 23.70/6.65, 0.00")
    assert text_of(tmp_path, "table3", "farkasnet50_imagenet", "batch") == expected


def test_another_schedule_is_said_by_its_name_or_its_phases(tmp_path: Path) -> None:
    wanted, other = find("table3", "resnet50_imagenet", "batch"), find("table3", "resnet101_imagenet", "batch")
    schedule = [dict(phase) for phase in TABLES["table3"].setting["phases.schedule"]]
    schedule[0]["lr_to"] = 0.9
    make_run(
        tmp_path / "a", cell_settings(wanted, "table3", phases__name="mine", phases__schedule=schedule), test_error=30.0
    )
    make_run(tmp_path / "b", cell_settings(other, "table3", phases__schedule=schedule), test_error=30.0)
    (named,) = [n for n in paper_table(fill(TABLES["table3"], collect(tmp_path / "a"))).notes if "Not the paper" in n]
    assert named == "Not the paper's setting: phases mine (paper: finlay29)."
    (changed,) = [n for n in paper_table(fill(TABLES["table3"], collect(tmp_path / "b"))).notes if "Not the paper" in n]
    assert "phases.schedule [to 8: 128 px x 1024, lr 0.5-0.9,to 15: 128 px" in changed
    assert "{" not in changed


def test_the_small_table_3_shows_both_errors_of_its_networks_alone(tmp_path: Path) -> None:
    narrow = {"model__blocks": [1, 1, 1, 1], "model__widths": [32, 48, 64, 96]}
    for row, error in zip(TABLE3_MINI.rows, (8.0, 6.0), strict=True):
        wanted = TABLE3_MINI.cell(row, TABLE3_MINI.columns[0])
        made = cell_settings(wanted, "table3", dataset__name="streamed_folder", **narrow)
        make_run(tmp_path, made, test_error=error, result={"test_error_top5": error / 4})
        make_run(tmp_path, cell_settings(wanted, "table3"), test_error=50.0)
    table = paper_table(fill(TABLE3_MINI, collect(tmp_path)))
    assert [row[1].texts[0] for row in table.rows] == ["8.00 / 2.00 (1)", "6.00 / 1.50 (1)"]


def test_what_was_narrowed_is_said(tmp_path: Path) -> None:
    wanted = find("table1", "resnet18", "batch")
    narrowed = cell_settings(wanted, dataset__name="digits", epochs=20, dataset__train_limit=500, batch_size=32)
    make_run(tmp_path, narrowed, test_error=7.0)
    notes = "\n".join(paper_table(fill(TABLES["table1"], collect(tmp_path))).notes)
    said = ("dataset digits (paper: cifar10)", "dataset.train_limit 500", "epochs 20 (paper: 200)", "batch_size 32")
    for part in said:
        assert part in notes
    assert "Runs in a cell: 0 to 1 (paper: 3); 15 of 16 cells have none." in notes
    assert text_of(tmp_path, "table1", "resnet18", "batch") == ("7.00 (1)", "paper 7.01"), "no difference on other data"
    assert {each["difference"] for each in paper_table(fill(TABLES["table1"], collect(tmp_path))).records} == {None}


def test_the_papers_setting_has_no_such_note(tmp_path: Path) -> None:
    for wanted in TABLES["table1"].cells:
        for seed in range(3):
            make_run(tmp_path, cell_settings(wanted), seed=seed)
    notes = paper_table(fill(TABLES["table1"], collect(tmp_path))).notes
    assert not [note for note in notes if "Not the paper's" in note or "Runs in a cell" in note]


def test_two_settings_never_stand_in_one_table(tmp_path: Path) -> None:
    make_run(tmp_path, cell_settings(find("table1", "resnet18", "batch"), epochs=20), test_error=30.0)
    make_run(tmp_path, cell_settings(find("table1", "resnet34", "batch")), test_error=7.0)
    for model in ("resnet50", "resnet101"):
        make_run(tmp_path, cell_settings(find("table1", model, "batch"), epochs=20), test_error=30.0)
    filled = fill(TABLES["table1"], collect(tmp_path))
    assert {c.model for c in filled.runs} == {"resnet34"}, "the paper's own setting comes first"
    notes = paper_table(filled).notes
    assert any(note.startswith("Left out: 3 runs in another setting (epochs 20)") for note in notes)
    short = [record for record in collect(tmp_path) if record.epochs == 20]
    assert {c.model for c in fill(TABLES["table1"], short).runs} == {"resnet18", "resnet50", "resnet101"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([("resnet18", 20)], [("resnet18", 200, "running")], id="the paper's own needs a result"),
        pytest.param([("resnet18", 20), ("resnet34", 20)], [("resnet18", 50)], id="most cells"),
        pytest.param([("resnet18", 50)], [("resnet18", 20), ("resnet34", 20, "running")], id="that have results"),
    ],
)  # fmt: skip
def test_of_several_settings_fills_the_table(first: list[Any], second: list[Any]) -> None:
    records = []
    for model, epochs, *state in (*second, *first):
        made, name = cell_settings(find("table1", model, "batch"), epochs=epochs), f"{model} {epochs}"
        records.append(RunRecord(Path(name), name, "", 0, made, (*state, "finished")[0], epochs, epochs, {}))
    filled = fill(TABLES["table1"], records)
    assert {run.epochs for runs in filled.runs.values() for run in runs} == {first[0][1]}
    assert [count for _, count in filled.left_out] == [len(second)]


def test_runs_on_other_data_neither_fill_the_table_nor_stand_below_it(tmp_path: Path) -> None:
    def made(data: str, model: str, seed: int, lr: float | None = None) -> Path:
        own = cell_settings(find("table1", model, "batch"))
        path = make_run(tmp_path, own | ({"lr": {**own["lr"], "value": lr}} if lr else {}), seed=seed)
        write_json(RunDirectory(path).environment, {"data": {"fingerprint": data}})
        return path

    kept = {made("b", "resnet18", 1), made("b", "resnet34", 0)}
    control, *_ = made("b", "resnet18", 1, lr=0.7), made("a", "resnet18", 0), made("a", "resnet18", 0, lr=0.7)
    filled = fill(TABLES["table1"], collect(tmp_path))
    assert {run.path for runs in filled.runs.values() for run in runs} == kept
    assert filled.left_out == (({"data": "a"}, 1),)
    assert [run.path for run in filled.others] == [control]


def test_errors_on_held_out_images_and_of_normalized_inputs_or_another_affine_fill_no_cell(tmp_path: Path) -> None:
    own = cell_settings(find("table1", "resnet18", "batch"))
    held_out = make_run(tmp_path, own | {"dataset": {**own["dataset"], "validation": 0.1}})
    make_run(tmp_path, settings("mlp", dataset__validation=0.1))
    make_run(tmp_path, own | {"dataset": {**own["dataset"], "normalize": True}})
    make_run(tmp_path, own | {"normalization": {"name": "batch", "affine": not NETWORKS["resnet18"].affine}})
    filled = fill(TABLES["table1"], collect(tmp_path))
    assert not filled.runs
    assert [run.path for run in filled.held_out] == [held_out]


def test_runs_of_its_networks_that_no_cell_takes_are_counted(tmp_path: Path) -> None:
    def said() -> list[str]:
        return [note for note in paper_table(fill(TABLES["table1"], collect(tmp_path))).notes if "In no cell" in note]

    make_run(tmp_path, cell_settings(find("table2", "resnet34", "batch"), "table2"))  # of that table
    make_run(tmp_path, cell_settings(find("table4", "fixup34", "none")))  # no network of this one
    narrow = cell_settings(find("table1", "resnet18", "batch"), model__widths=[4, 8])
    make_run(tmp_path, narrow)
    start = "In no cell: 1 run of these networks with other settings than any cell's"
    assert [note.partition(" (")[0] for note in said()] == [start], "where no cell is filled"
    make_run(tmp_path, cell_settings(find("table1", "resnet34", "batch")))
    assert not said(), "listed among the other arms of the setting"
    make_run(tmp_path, narrow | {"epochs": 20})
    assert [note.partition(" (")[0] for note in said()] == [start]


def test_the_data_of_another_table_never_fills_this_one(tmp_path: Path) -> None:
    make_run(tmp_path, cell_settings(find("table1", "resnet34", "batch")))
    assert not fill(TABLES["table2"], collect(tmp_path)).runs
    assert fill(TABLES["table4"], collect(tmp_path)).runs


def test_new_options_count_as_deviations(tmp_path: Path) -> None:
    path = make_run(tmp_path, cell_settings(find("table1", "resnet18", "batch")))
    (record,) = collect(tmp_path)
    assert path == record.path
    config = {**record.config, "mixup": 0.2}
    assert deviations(config, TABLES["table1"]) == {"mixup": 0.2}


def test_other_arms_are_named_by_all_that_sets_them_apart(tmp_path: Path) -> None:
    for wanted in TABLES["table1"].cells:
        make_run(tmp_path, cell_settings(wanted))
    wanted = find("table1", "resnet50", "none")
    make_run(tmp_path, cell_settings(wanted, init__name="kaiming", init__last_scale=0.125), test_error=20.0)
    table = other_arms_tables(fill(TABLES["table1"], collect(tmp_path)))[0]
    assert [row[0].texts[0] for row in table.rows] == ["ResNet50, no BN, lr 0.01, init kaiming, init.last_scale 0.125"]


@pytest.mark.parametrize(("value", "text"), [(0.754, "+0.75"), (-0.126, "−0.13"), (0.0, "0.00"), (-0.001, "0.00")])
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize("table", list(TABLES))
def test_every_format_of_a_partial_table(tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    wanted = TABLES[table].cells[0]
    make_run(runs, cell_settings(wanted, table, epochs=4), test_error=20.0)
    make_run(runs, cell_settings(wanted, table, epochs=4), seed=1, state="failed", epoch=3, reason="50 % & {more}_")
    assert main([table, f"runs_dir={runs}", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "20.00 (1)*" in printed
    assert "missing" in printed
    assert "epochs 4" in printed
    check_latex((out / f"{table}.tex").read_text())
    check_html((out / f"{table}.html").read_text())
    assert "20.00 (1)\\*<br>paper" in (out / f"{table}.md").read_text()
    assert (out / f"{table}.png").read_bytes().startswith(b"\x89PNG")
    records = list(csv.DictReader(io.StringIO((out / f"{table}.csv").read_text())))
    assert len(records) == len(TABLES[table].cells)
    assert (records[0]["mean"], records[0]["n"], records[0]["failed"]) == ("20.0", "1", "1")
    assert float(records[0]["paper"]) == wanted.value
    assert records[1]["mean"] == ""


def test_a_table_without_any_run_renders_as_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, settings("mlp"))
    assert main(["table1", f"runs_dir={tmp_path}", "format=md,png"]) == 0
    assert capsys.readouterr().out.count("missing") == 16


def test_latex_of_a_table_has_a_line_for_ours_and_one_for_the_paper(tmp_path: Path) -> None:
    make_run(tmp_path, cell_settings(find("table1", "resnet18", "batch")), test_error=7.0)
    table = paper_table(fill(TABLES["table1"], collect(tmp_path)))
    latex = to_latex(table)
    check_latex(latex)
    assert r"ResNet (BN, large LR) & 7.00 (1) & missing & missing & missing \\" in latex
    assert r" & paper 7.01, $-$0.01 & paper 6.79 & paper 5.04 & paper 4.95 \\" in latex
    assert "difference" in to_csv(table).splitlines()[0]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("table1", ("six times smaller", "on their logits", "6.79 and 6.77 (Table 4)", "9.90 and 9.18")),
        ("table2", ("six times smaller", "on their logits", "runs 23.43 and 23.88 together")),
        ("table4", ("on their logits", "6.77 and 6.79 (Table 1)", "9.18 and 9.90")),
    ],
)
def test_what_the_papers_numbers_hide_stands_below_its_tables(
    tmp_path: Path, table: str, said: tuple[str, ...]
) -> None:
    notes = " ".join(paper_table(fill(TABLES[table], collect(tmp_path))).notes)
    assert [part for part in said if part not in notes] == []


@pytest.mark.parametrize("table", [FIGURE5, FIXUP_RATES, TABLE3_MINI], ids=lambda table: table.name)
def test_no_footer_speaks_of_a_paper_number_where_there_is_none(tmp_path: Path, table: PaperTable) -> None:
    make_run(tmp_path, cell_settings(table.cells[0], dataset__name="digits", epochs=3))
    rendered = paper_table(fill(table, collect(tmp_path)))
    assert not [
        note for note in rendered.notes if "paper's number" in note or "differences" in note or "(paper: 3" in note
    ]
