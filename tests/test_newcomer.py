"""A newcomer's changes: each is a registration beside the code that it names, and is seen everywhere.

A normalization and an initialization with options of their own are in test_plugins.py.
"""

import csv
from pathlib import Path

from farkas_exp.config import parse
from farkas_exp.config.help import help_text
from farkas_exp.launch.cli import main
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.figures import check_measures
from farkas_exp.report import command as report
from farkas_exp.runs import RunDirectory, collect, read_json, read_starts
from tests.paths import ROOT
from tests.plugin_commands import SMALL, forked, run

DIGITS = [*SMALL, "dataset=digits", "dataset.train_limit=100"]
OWN = "farkas_newcomer"


def print_refusals(*parts: dict[str, dict[str, object]]) -> None:
    """Print why each of these configurations is refused."""
    base = {"model": {"name": "mlp"}, "lr": {"value": 0.1}, "dataset": {"name": "digits"}}
    print("refused:")
    for part in parts:
        try:
            check_measures(parse({**base, **part}))
        except UserError as error:
            print(error)


def test_a_residual_network_and_a_table(tmp_path: Path) -> None:
    runs_dir = f"runs_dir={tmp_path / 'runs'}"
    scaled = ["model=stairs", "residual.depth_exponent=-0.5", "init=zero_last"]  # needs residual branches
    status, said = run("-m", "model.steps=2,5", *scaled, *DIGITS, runs_dir, folder=tmp_path, installed=OWN)
    assert status == 0, said
    assert "warning" not in said

    records = collect(tmp_path / "runs")
    assert sorted(record.config["model"]["steps"] for record in records) == [2, 5]
    assert len({record.identity for record in records}) == 2
    parameters = {r.config["model"]["steps"]: read_json(r.path / "result.json")["parameters"] for r in records}
    assert parameters[5] - parameters[2] == 3 * (12 * 12 + 12)

    def show() -> int:
        assert report.main(["by_steps", runs_dir, "format=csv,md"]) == 0
        print("help:", help_text(ROOT / "conf"))
        report.main(["--help"])
        print_refusals({"model": {"name": "resnet18", "steps": 4}})
        return 0

    status, shown = forked(show, tmp_path, OWN)
    assert status == 0, shown
    (file,) = (tmp_path / "runs" / "report").glob("*.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["steps"] for row in rows] == ["2", "5"]
    errors = {str(r.config["model"]["steps"]): r.result["test_error"] for r in records if r.result}
    assert {row["steps"]: float(row["test_error"]) for row in rows} == errors
    seen = shown.partition("help:")[2]
    assert "stairs" in seen
    assert "by_steps" in seen
    assert "model.steps: 4 does nothing here; it needs model.name=stairs (else 3)" in seen


def test_an_optimizer_and_a_measure(tmp_path: Path) -> None:
    asked = ["diagnostics.epochs=[0,1]", "diagnostics.measures=[largest]", "diagnostics.images=8"]
    chosen = ["model=mlp", "model.width=8", "optimizer=signs", "optimizer.momentum=0", "lr.value=0.001", *asked]
    runs_dir = f"runs_dir={tmp_path / 'runs'}"

    def sweep_and_refusals() -> int:
        status = main(["-m", "optimizer.share=1,0.5", *chosen, *DIGITS, runs_dir])
        assert report.main([runs_dir, "format=md"]) == 0
        seen = help_text(ROOT / "conf")
        assert "signs" in seen
        assert "share=1" in seen
        assert "largest" in seen
        print_refusals(
            {"optimizer": {"name": "sgd", "share": 0.5}},
            {"optimizer": {"name": "signs", "share": 0}},
            {"optimizer": {"name": "signs", "nesterov": True}},
            {"optimizer": {"name": "adam", "momentum": 0.5}},
            {"diagnostics": {"measures": ["larges"]}},
            {
                "diagnostics": {"measures": ["brightest"], "epochs": [0]},
                "dataset": {"name": "digits", "normalize": True},
            },
        )
        return status

    status, said = forked(sweep_and_refusals, tmp_path, OWN)
    assert status == 0, said
    assert "warning" not in said
    whole, half = sorted(collect(tmp_path / "runs"), key=lambda record: -record.config["optimizer"]["share"])
    assert whole.identity != half.identity
    assert "optimizer.share 0.5" in (tmp_path / "runs" / "report" / "arms.md").read_text()
    moved = [record.diagnostics()[1]["largest"] - record.diagnostics()[0]["largest"] for record in (whole, half)]
    assert moved[0] != moved[1]
    assert all(abs(step) <= 2 * 0.001 * share + 1e-6 for step, share in zip(moved, (1, 0.5), strict=True)), "two steps"

    lines = said.partition("refused:\n")[2].splitlines()
    expected = (
        "optimizer.share: 0.5 does nothing here; it needs optimizer.name=signs (else 1.0)",
        "optimizer.share: 0.0 is out of range; it must be positive",
        "optimizer.nesterov: true does nothing here; it needs optimizer.name=sgd (else false)",
        "optimizer.momentum: 0.5 does nothing here; it needs optimizer.name=sgd or signs (else 0.9)",
        "diagnostics.measures: unknown 'larges'; did you mean 'largest'",
        "diagnostics.measures: brightest attacks pixels in [0, 1], not dataset.normalize=true",
    )
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_methods(tmp_path: Path) -> None:
    given = ["model=mlp", "model.width=8", *DIGITS, f"runs_dir={tmp_path / 'runs'}"]
    quiet = ["regularizer=quiet", "regularizer.strength=0.5"]

    def sweep_and_refusals() -> int:
        status = main(["-m", *quiet, "regularizer.power=1,2,4", *given])
        status += main([*quiet, "regularizer.alone=true", *given])
        halving = ["callback=halving", "callback.last_epochs=1", "lr.milestones=[]", "label_smoothing=0.1"]
        status += main([*given, *halving, "epochs=2"])
        assert report.main([f"runs_dir={tmp_path / 'runs'}", "format=md"]) == 0
        assert report.main([f"runs_dir={tmp_path / 'runs'}", f"out={tmp_path / 'four'}", "regularizer.power=4"]) == 0
        seen = help_text(ROOT / "conf")
        for each in ("regularizer: none, norm_bias, quiet, sep_p", "callback: halving, none", "power=2.0"):
            assert each in seen
        print_refusals(
            {"regularizer": {"name": "sep_up", "power": 3}},
            {"regularizer": {"name": "quiet", "power": 0}},
            {"regularizer": {"name": "quiet", "rho": 0.1}},
            {"callback": {"name": "halving", "lr": 0.1}},
        )
        return status

    status, said = forked(sweep_and_refusals, tmp_path, OWN)
    assert status == 0, said
    assert "warning" not in said
    assert [line for line in said.splitlines() if line.startswith("counted")] == [
        "counted 2 in epoch 1", "counted 4 in epoch 2",
    ]  # fmt: skip

    records = collect(tmp_path / "runs")
    assert len({record.identity for record in records}) == 5
    assert all(OWN + "_parts" in read_starts(RunDirectory(record.path))[0]["plugins"] for record in records)
    (halved,) = [record for record in records if record.config["callback"]["name"] == "halving"]
    assert [row["lr"] for row in halved.metrics()] == [0.01, 0.005]
    by = {(r.config["regularizer"]["power"], r.config["regularizer"]["alone"]): r for r in records if r is not halved}
    assert by.keys() == {(1.0, False), (2.0, False), (4.0, False), (2.0, True)}
    assert all("-quiet-" in record.slug for record in by.values())
    penalties = {key: record.metrics()[0]["train_penalty"] for key, record in by.items()}
    assert len(set(penalties.values())) == 4, "the second step sees what the first one was trained on"
    arms = (tmp_path / "runs" / "report" / "arms.md").read_text()
    for seen in (", Quiet,", ", regularizer none,", ", regularizer.power 4", ", callback halving,"):
        assert seen in arms.replace("\\", ""), arms
    assert [path.suffix for path in (tmp_path / "four").iterdir()]

    assert [line.partition(" (else")[0] for line in said.partition("refused:\n")[2].splitlines()] == [
        "regularizer.power: 3.0 does nothing here; it needs regularizer.name=quiet",
        "regularizer.power: 0.0 is out of range; it must be positive",
        "regularizer.rho: 0.1 does nothing here; it needs regularizer.name=sep_u or sep_p or sep_up",
        "callback.lr: 0.1 does nothing here; it needs callback.name=rank_min or rank_max",
    ]
