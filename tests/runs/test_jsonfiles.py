"""The JSONL record: what a kill, a resume and a number that is not finite leave behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from farkas_exp.runs import read_rows, write_json
from farkas_exp.runs.jsonfiles import append_row, truncate_rows


def test_a_row_is_in_the_file_before_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2):
        append_row(path, {"epoch": epoch, "loss": 0.5})
        assert read_rows(path)[-1] == {"epoch": epoch, "loss": 0.5}


def test_a_new_row_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    append_row(tmp_path / "m.jsonl", {"epoch": 1})
    assert len(synced) == 1


@pytest.mark.parametrize("write", [append_row, write_json])
def test_what_is_written_is_strict_json_and_null_stands_for_not_finite(tmp_path: Path, write: Callable) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"epoch": 1, "a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": float("-inf")}})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"epoch": 1, "a": None, "b": [None, 1.0], "c": {"d": None}}


def test_resuming_keeps_the_rows_of_the_checkpointed_epochs_only(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    lines = [json.dumps({"epoch": epoch, "x": epoch}) + "\n" for epoch in (1, 2, 2, 3, 4)]
    path.write_text("".join(lines) + '{"epoch": 5, "x"')
    kept = truncate_rows(path, 3)
    assert [row["epoch"] for row in kept] == [1, 2, 3]
    assert read_rows(path) == kept
    assert path.read_text().endswith("}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize("damaged", ['{"epoch": 2, "x', "[2]", "", "null"])
def test_rows_count_up_to_the_first_that_is_damaged_and_the_last_with_its_line_end(
    tmp_path: Path, damaged: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"epoch": 1}}\n{damaged}\n{{"epoch": 3}}\n')
    assert read_rows(path) == [{"epoch": 1}]
    path.write_text('{"epoch": 1}\n{"epoch": 2}')
    assert read_rows(path) == [{"epoch": 1}], "the next row is written in its place"


def test_sparse_rows_are_cut_by_epoch_not_by_line(tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.jsonl"
    path.write_text("".join(json.dumps({"epoch": epoch}) + "\n" for epoch in (1, 10, 100)))
    assert [row["epoch"] for row in truncate_rows(path, 20)] == [1, 10]


def test_truncating_a_missing_file_makes_none(tmp_path: Path) -> None:
    assert truncate_rows(tmp_path / "m.jsonl", 3) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("whole", ['{"epoch": 1}\n', ""])
@pytest.mark.parametrize("torn", ['{"epoch": 2, "lo', "x"])
def test_a_new_row_is_not_glued_to_a_torn_one(tmp_path: Path, whole: str, torn: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(whole + torn)
    append_row(path, {"epoch": 2})
    assert path.read_text() == whole + '{"epoch": 2}\n'
