"""Records that nobody would write by hand: reports neither fail on them, nor obey them, nor leave them out unsaid."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.config import parse
from farkas_exp.launch import outcomes, planned
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import REPORTS
from farkas_exp.report import command
from farkas_exp.report.arms import Arm, arms_table, group_arms
from farkas_exp.report.curves import MOST_ARMS, curves_figure, looks
from farkas_exp.report.render import Report, file_name, show
from farkas_exp.report.tables import Table, cell, to_csv, to_html, to_latex, to_markdown, to_terminal
from farkas_exp.runs import RunDirectory, RunRecord, best, collect, read_json, write_json
from farkas_exp.studies.farkas.filling import fill
from farkas_exp.studies.farkas.paper import TABLES
from farkas_exp.studies.farkas.paper_table import other_arms_tables, paper_table
from farkas_exp.studies.without_normalization import arms, costs
from tests.made_runs import make_run, settings

NASTY = "=cmd|' /C calc'!A0 $\\frac{ \x1b[2J\x07 <script>alert(1)</script> _x_ | & % # {~^} [a](b)\n\r\u202eend"


def changed(path: Path, file: str, **values: Any) -> None:
    write_json(path / file, read_json(path / file) | values)


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    """Runs whose record says things that a spreadsheet, a terminal, a browser or LaTeX could take for orders."""
    for index, text in enumerate((NASTY, "_hidden", "[2,2]", "* star", "+1", "-1", "@SUM(1)", "日本")):
        path = make_run(tmp_path, settings(epochs=3, lr__value=0.01 * (index + 1)), test_error=10.0 + index)
        config = read_json(path / "run.json")["config"]
        config["dataset"]["label"] = text
        changed(path, "run.json", config=config)
    make_run(tmp_path, settings(epochs=3), seed=1, state="failed", epoch=2, reason=NASTY)
    return tmp_path


def test_hostile_labels_reach_every_format_as_text(nasty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([f"runs_dir={nasty}", "format=md,csv,tex,html,png"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    out = nasty / "report"
    html = (out / "arms.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    markdown = (out / "arms.md").read_text()
    assert "\\<script\\>" in markdown
    assert "\\$" in markdown
    rows = list(csv.DictReader(io.StringIO((out / "arms.csv").read_text())))
    assert len(rows) == 8, "no line break in a cell"
    for row in rows:
        assert not any(value.startswith(("=", "@")) for value in row.values())
    labels = {row["dataset.label"] for row in rows}
    assert {"'+1", "'-1", "'@SUM(1)"} <= labels
    latex = (out / "arms.tex").read_text()
    assert "\\frac" not in latex
    assert "\x1b" not in latex + markdown + html


def test_what_is_special_to_a_format_is_escaped() -> None:
    notes = ("- no list", "# none", "1. none", "+ none", "$a$ `code`")
    records = ({"a": "=1+1", "b": -1.5, "c": "x\ny", "=d": "\t=2"},)
    rows = ((cell("[2,2]", "&amp; ~~gone~~"), cell("*")),)
    table = Table("$x$ & 1. one", ("a", "[b]"), rows, notes, records)
    latex = to_latex(table)
    assert "\\\\\n    [" not in latex
    assert "{}[2,2] & *" in latex
    markdown = to_markdown(table)
    assert "&amp;amp; \\~\\~gone\\~\\~" in markdown
    assert all(not line.startswith(("-", "#", "1.", "+")) for line in markdown.splitlines())
    assert "\\$a\\$" in markdown
    assert to_csv(table).splitlines() == ["a,b,c,'=d", "'=1+1,-1.5,x\\ny,\\t=2"]
    assert "&amp;amp;" in to_html(table)
    with pytest.raises(AssertionError):
        Table("t", ("a",), ((cell("1"), cell("2")),))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_table_is_printed_on_any_terminal(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        make_run(tmp_path, settings(epochs=2), seed=seed)
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    assert command.main([f"runs_dir={tmp_path}", "format=none"]) == 0
    out.flush()
    assert "ResNet18" in out.buffer.getvalue().decode(encoding)


def fake_arms(count: int) -> list[Arm]:
    runs = []
    for index in range(count):
        config = settings("farkasnet34", lr__value=0.001 * (index + 1))
        result = {"status": "finished", "test_error": 5.0, "epochs": 1}
        runs.append(RunRecord(Path(f"/nowhere/{index}"), str(index), "", 0, config, "finished", 1, 1, result))
    return group_arms(runs)


@pytest.mark.parametrize("count", [61, 62, 63, 400])
def test_any_number_of_arms_has_looks_of_its_own(count: int) -> None:
    found = looks(fake_arms(count))
    assert len({(look.color, str(look.line), look.marker) for look in found.values()}) == count


def test_a_figure_of_too_many_arms_says_what_it_leaves_out(tmp_path: Path) -> None:
    arms = fake_arms(MOST_ARMS + 7)
    figure = curves_figure(arms)
    assert "7 more arms are not drawn" in figure.get_supxlabel()


@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/report", "file", "/proc/nothing", "x" * 300])
def test_files_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs", settings(epochs=2))
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert command.main([f"out={out}", "format=md"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out: cannot write to ")
    assert error.count("\n") == 1
    assert Path("file").read_text() == "mine"


def test_every_table_has_a_csv_of_its_own(tmp_path: Path) -> None:
    wanted = TABLES["table1"]
    for name, more in (("resnet18", {}), ("resnet18", {"init": {"name": "kaiming"}})):
        make_run(tmp_path, settings(name, epochs=200, **more), test_error=12.0)
    files = show(REPORTS["table1"].build(collect(tmp_path)), tmp_path / "out", ("csv", "tex"), io.StringIO())
    assert [path.name for path in files] == ["table1.csv", "table1_others.csv", "table1_claims.csv", "table1.tex"]
    heads = [path.read_text().splitlines()[0] for path in files[:3]]
    assert len(set(heads)) == 3
    text = files[3].read_text()
    assert text.count("\\begin{table}") == 2
    assert "Claims that no runs here are about" in text
    assert wanted.title.split(":")[0] in text


def test_the_files_of_a_report_have_different_names() -> None:
    table = Table("t", ("a",), ())
    names = ("own", "", "own_more", "other")
    report = Report("own", tuple(Table("t", ("a",), (), name=name) for name in names))
    assert [file_name(report, each) for each in report.tables] == ["own", "own", "own_more", "own_other"]
    twice = Report("own", (table, table))
    with pytest.raises(AssertionError, match="name"):
        show(twice, Path("/nowhere"), ("csv",), io.StringIO())


def damage(runs: Path) -> None:
    """One run without a readable record, one whose result is damaged, one link to itself."""
    path = make_run(runs, settings(lr__value=0.5, epochs=2))
    (path / "run.json").write_text("{")
    path = make_run(runs, settings(lr__value=0.6, epochs=2), test_error=1.0)
    (path / "result.json").write_text('{"status": "finished", "test_error": 1e400}x')
    (runs / "itself").symlink_to("itself")


@pytest.mark.parametrize("report", ["arms", "table1", "claims", "landscape", "table1_mini"])
def test_what_cannot_be_read_is_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: str
) -> None:
    make_run(tmp_path, settings(epochs=2))
    damage(tmp_path)
    assert command.main([report, f"runs_dir={tmp_path}", "format=md", "lr=0.01,0.6"]) == 0
    shown = capsys.readouterr().out
    text = (tmp_path / "report" / f"{report}.md").read_text()
    for output in (shown, text.replace("\\", "")):
        assert "3 not among the runs" in output
        assert str(tmp_path / "itself") in output
        assert "result.json is damaged" in output
    make_run(tmp_path, settings(epochs=2, dataset__validation=0.1))
    assert best.main([f"runs_dir={tmp_path}"]) == 0
    assert "3 not among the runs" in capsys.readouterr().out


def test_many_unreadable_runs_are_counted_and_the_first_ones_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, settings(epochs=2))
    for index in range(15):
        (tmp_path / f"link{index:02d}").symlink_to(f"link{index:02d}")
    assert command.main([f"runs_dir={tmp_path}", "format=none"]) == 0
    shown = capsys.readouterr().out
    assert "15 not among the runs" in shown
    assert "link09" in shown
    assert "link10" not in shown
    assert "5 more" in shown


# What is measured on which set, and on which data


def test_validation_errors_and_test_errors_share_no_column(tmp_path: Path) -> None:
    make_run(tmp_path, settings(epochs=200), test_error=12.0)
    make_run(tmp_path, settings(epochs=200, dataset__validation=0.1), test_error=3.0)
    records = collect(tmp_path)
    table = arms_table(group_arms(records))
    assert table.columns[1:3] == ("test error (%)", "validation error (%)")
    assert sorted(tuple(c.texts[0] for c in row[1:3]) for row in table.rows) == [("12.00", "–"), ("–", "3.00")]
    assert {(r["test_error_mean"], r["validation_error_mean"]) for r in table.records} == {(12.0, None), (None, 3.0)}
    labels = [axes.get_ylabel() for axes in curves_figure(group_arms(records)).axes]
    assert labels == ["test error (%)", "validation error (%)", "training loss, running mean (nats)"]
    filled = fill(TABLES["table1"], records)
    texts = [c.texts[0] for row in paper_table(filled).rows for c in row]
    assert "12.00 (1)" in texts
    assert not any("3.00" in text for text in texts)
    (held_out,) = other_arms_tables(filled)
    assert held_out.columns[1] == "validation error (%)"
    assert held_out.rows[0][1].texts[0] == "3.00"
    assert "1 run whose error is on held-out images" in " ".join(paper_table(filled).notes)


def on_data(path: Path, fingerprint: str) -> None:
    write_json(RunDirectory(path).environment, {"data": {"fingerprint": fingerprint}})


def test_runs_on_different_data_are_never_seeds_of_one_arm(tmp_path: Path) -> None:
    config = settings(epochs=200)
    for seed, (data, error) in enumerate((("cats", 3.0), ("cars", 30.0), ("cats", 5.0))):
        on_data(make_run(tmp_path, config, seed=seed, test_error=error), data)
    records = collect(tmp_path)
    arms = {arm.label: arm for arm in group_arms(records)}
    assert {label: len(arm.runs) for label, arm in arms.items()} == {
        "ResNet18, no BN, data cars": 1, "ResNet18, no BN, data cats": 2,
    }  # fmt: skip
    filled = fill(TABLES["table1"], records)
    assert [[run.seed for run in runs] for runs in filled.runs.values()] == [[0, 2]]
    assert dict(filled.left_out[0][0])["data"] == "cars"


def test_a_failed_run_is_chance_to_a_search_whatever_its_last_error(tmp_path: Path) -> None:
    for seed, error in enumerate((1.0, None)):
        values = settings(epochs=2, dataset__validation=0.1, seed=seed)
        path = make_run(tmp_path, values, seed=seed, state="failed", reason="loss", result={"test_error": error})
        assert planned.objective(parse(values), outcomes.Outcome("failed", str(path))) == pytest.approx(90.0)


def test_a_sweep_prints_no_control_characters_of_an_error() -> None:
    assert outcomes.Outcome("crashed", "path", "ValueError: \x1b[2J\nbad").note == "ValueError: \\x1b[2J\\nbad"


# Anything in a record


FEW: tuple[Any, ...] = ("x", [[1]])
VALUES: tuple[Any, ...] = (None, True, -1, 10**30, "x", "", [], [[1]], {}, {"a": {"b": 1}}, 1e-320)


@pytest.mark.parametrize("values", [FEW, pytest.param(VALUES, marks=pytest.mark.slow)], ids=["few", "all"])
def test_no_value_of_a_record_brings_a_report_down(
    tmp_path: Path, values: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key of a run's files at every kind of value: each report is made, or refused in one line."""
    base = settings("mlp", dataset__name="moons", epochs=2, model__depth=2, model__width=4, device="cpu")
    configs = {"plain, He": base, "Farkas, He": {**base, "model": {**base["model"], "name": "farkas_mlp"}}}
    # Composing an experiment's own arms takes seconds.
    monkeypatch.setattr(arms, "composed", lambda experiment: configs)
    monkeypatch.setattr(costs, "ROUNDS", 1)
    path = make_run(tmp_path, base)
    make_run(tmp_path, {**base, "dataset": {"name": "moons", "validation": 0.1}}, seed=1)
    files = {name: read_json(path / name) for name in ("run.json", "result.json", "state.json")}
    row = {"epoch": 2, "layers": [{"dead_points": 0.5, "dead_units": 0.1, "units": 3}], "dead_samples": 0.1,
           "robust_error": {"8/255": 3.0}, "effective_rank": {"a": 1.0}, "ntk_correlation": 0.5}  # fmt: skip
    every = [REPORTS[name] for name in REPORTS if REPORTS[name].needs_runs]

    def render_all() -> None:
        records = collect(tmp_path)
        for report in every:
            try:
                for table in (made := report.build(records)).tables:
                    to_terminal(table, io.StringIO())
                    assert to_markdown(table) + to_csv(table) + to_latex(table) + to_html(table)
                assert made.name
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017

    for value in values:
        lines = [{**row, key: value} for key in row]
        lines += [{**row, "layers": [{**row["layers"][0], key: value}]} for key in row["layers"][0]]  # type: ignore[index]
        (path / "diagnostics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (path / "metrics.jsonl").write_text("".join(json.dumps({"epoch": value, "test_error": value}) + "\n"))
        render_all()
    for value in values:
        for name, content in files.items():
            spoiled = {key: value for key in content if key not in ("schema", "identity", "config", "status")}
            (path / name).write_text(json.dumps({**content, **spoiled, "unknown": value}))
            config = (
                {**content["config"], "unknown": value, "phases": {"schedule": [value]}} if "config" in content else {}
            )
            if config:
                (path / name).write_text(json.dumps({**content, "config": config}))
            render_all()
            (path / name).write_text(json.dumps(content))


def test_a_report_at_the_same_time_does_not_disturb(tmp_path: Path) -> None:
    """Whatever another writer leaves half done, the files of a report are whole and nothing else is left."""
    make_run(tmp_path, settings(epochs=2))
    out = tmp_path / "out"
    out.mkdir()
    for name in (".arms.png.tmp", f".arms.md.{os.getpid()}.tmp"):
        (out / name).mkdir()
    assert command.main([f"runs_dir={tmp_path}", f"out={out}", "format=md,png"]) == 0
    assert {path.name for path in out.iterdir() if path.is_file()} == {"arms.md", "arms.png"}


def test_a_report_from_outside_that_returns_none_is_one_line(tmp_path, monkeypatch, capfd):
    make_run(tmp_path, settings("resnet18", epochs=3))
    monkeypatch.setattr(REPORTS, "_entries", dict(REPORTS._entries))
    REPORTS.register("forgetful", lambda runs: None, summary="nothing")
    assert command.main(["forgetful", f"runs_dir={tmp_path}"]) == 2
    assert capfd.readouterr().err == "error: report: forgetful has to return a Report, not NoneType\n"
