"""The table of activity by kind of unit, from measurements made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.report.activity import by_kind, units_table
from farkas_exp.report.landscape import landscape_table
from farkas_exp.runs.collection import collect
from tests.made_runs import make_run, settings


def measured(runs_dir: Path, config: dict[str, Any], seed: int, rows: dict[int, list[dict[str, float]]]) -> None:
    path = make_run(runs_dir, config, seed=seed)
    lines = [
        {"epoch": epoch, "layers": [{"active": kinds, "dead_points": kinds["free"] / 2} for kinds in layers]}
        for epoch, layers in rows.items()
    ]
    (path / "diagnostics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_network_that_had_diverged_has_no_shares() -> None:
    """Version 0.1 recorded zeros beside a margin that is not a number."""
    row: dict[str, Any] = {
        "layers": [{"active": {"free": 0.5}, "dead_points": 0.0, "margin": margin} for margin in (0.1, None)]
    }
    assert by_kind(row) == {}
    row["layers"][1]["margin"] = 0.2
    assert by_kind(row)["free"] == 0.5


def test_the_shares_are_averaged_over_layers_and_runs_and_silent_layers_are_counted(tmp_path: Path) -> None:
    farkas = settings("farkasnet18", epochs=2)
    first, last = {"free": 0.4, "aggregated": 0.6}, {"free": 0.2, "appended": 0.0}
    measured(tmp_path, farkas, 0, {0: [first, last, last], 2: [first, {"free": 0.2, "appended": 0.5}, last]})
    measured(tmp_path, farkas, 1, {0: [first, last, last], 2: [first, last, last]})
    measured(tmp_path, settings("resnet18", epochs=2), 0, {0: [{"free": 0.5}]})
    make_run(tmp_path, settings("resnet18", epochs=2), seed=1)  # which was not measured
    table = units_table(collect(tmp_path))
    texts = {row[0].lines[0].split(",")[0]: [each.lines[0] for each in row[1:]] for row in table.rows}
    assert texts["FarkasNet18"] == ["2", "0 → 2", "26.7 → 26.7", "60.0 → 60.0", "0.0 → 12.5",
                                    "20.0 → 20.0", "2 → 1.5 of 2"]  # fmt: skip
    assert texts["ResNet18"] == ["1", "0", "50.0", "–", "–", "25.0", "–"]
    assert [(r["epoch"], r.get("silent")) for r in table.records] == [(0, None), (0, 2.0), (2, 1.5)]


def test_a_run_measured_less_often_hides_nothing_of_the_others(tmp_path: Path) -> None:
    """As one that diverged in its first epoch, or whose figures were restored and only its beginning measured again."""
    resnet = settings("resnet18", epochs=2)
    measured(tmp_path, resnet, 0, {0: [{"free": 0.5}], 1: [{"free": 0.3}], 2: [{"free": 0.1}]})
    measured(tmp_path, resnet, 1, {0: [{"free": 0.7}]})
    table = units_table(collect(tmp_path))
    shown = [each.lines[0] for each in table.rows[0][1:]]
    assert shown == ["2 → 1 → 1", "0 → 1 → 2", "60.0 → 30.0 → 10.0", "–", "–", "30.0 → 15.0 → 5.0", "–"]
    assert [(row["epoch"], row["n"]) for row in table.records] == [(0, 2), (1, 1), (2, 1)]


def test_runs_that_were_not_measured_or_by_an_older_version_make_no_table(tmp_path: Path) -> None:
    make_run(tmp_path, settings("resnet18", epochs=2))
    path = make_run(tmp_path, settings("farkasnet18", epochs=2))
    (path / "diagnostics.jsonl").write_text('{"epoch": 0, "layers": [{"dead_units": 0.5}, {"active": 3}, 7]}\n')
    assert units_table(collect(tmp_path)) is None


@pytest.mark.parametrize(
    ("measures", "settings_of", "note"),
    [
        (["activity"], [{"images": 128}, {"images": 500}], "diagnostics.images=128 and 500"),
        (["ntk"], [{"images": 9, "ntk_images": 5}, {"images": 9, "ntk_images": 25}], "diagnostics.ntk_images=5 and 25"),
        (["activity"], [{"images": 9, "lanczos_steps": 30}, {"images": 9, "lanczos_steps": 80}], None),
    ],
)  # fmt: skip
def test_measurements_with_different_settings_are_not_shown_as_one_series_without_a_word(
    tmp_path: Path, measures: list[str], settings_of: list[dict[str, int]], note: str | None
) -> None:
    path = make_run(tmp_path, settings("resnet18", epochs=2))
    rows = [
        {"epoch": epoch, "measures": measures, "settings": own, "layers": [{"active": {"free": 0.5}}], "loss": 1.0}
        for epoch, own in zip((0, 2), settings_of, strict=True)
    ]
    (path / "diagnostics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = collect(tmp_path)
    for table in (units_table(records), landscape_table(records)):
        said = [text for text in table.notes if "comparable" in text]
        assert said == ([f"Not all measurements are comparable: they were taken with {note}."] if note else [])
