"""Which of the runs of an experiment's arms are compared: those in one setting, and on the same data."""

from pathlib import Path
from typing import Any

import pytest

from farkas_exp.report.methods import Arms
from farkas_exp.runs import RunDirectory, RunRecord, write_json
from tests.made_runs import settings


def config(arm: str, **more: Any) -> dict[str, Any]:
    scale = {"plain": 1.0, "half": 0.5, "none": 0.25}[arm]
    return settings(**{"init__last_scale": scale, "epochs": 4, "batch_size": 128, **more})


ARMS = Arms({arm: config(arm) for arm in ("plain", "half")}, ("lr.value", "dataset.validation"))


def run(name: str, arm: str, state: str = "finished", path: Path = Path("nowhere"), **more: Any) -> RunRecord:
    made = config(arm, **more)
    return RunRecord(path / name, name, "", 0, made, state, made["epochs"], made["epochs"], {})


def chosen(*records: RunRecord) -> dict[str, list[str]]:
    return {label: [each.identity for each in runs] for label, runs in ARMS.choose(records).runs.items()}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([("plain", 4)], [("plain", 8), ("half", 8)], id="the experiment's own"),
        pytest.param([("plain", 8)], [("plain", 4, "running")], id="that has a result"),
        pytest.param([("plain", 8), ("half", 8)], [("plain", 16)] * 3, id="of most arms"),
        pytest.param([("plain", 16)], [("plain", 8), ("half", 8, "running")], id="that have results"),
        pytest.param([("plain", 16)], [("plain", 8)] * 3, id="of the longest training"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_of_several_settings_comes_first(first: list[Any], second: list[Any], turned: bool) -> None:
    names = {f"{part} {i}": each for part, runs in (("a", first), ("b", second)) for i, each in enumerate(runs)}
    records = [run(name, arm, *state, epochs=epochs) for name, (arm, epochs, *state) in names.items()]
    found = ARMS.choose(records[::-1] if turned else records)
    assert {each.identity for runs in found.runs.values() for each in runs} == {n for n in names if n[0] == "a"}
    assert [count for _, count in found.left_out] == [len(second)]
    assert found.left_out[0][0] == f"epochs {second[0][1]}"


@pytest.mark.parametrize(("larger", "smaller"), [(64, 256), (256, 64)])
def test_of_two_settings_that_are_alike_the_one_with_more_runs_comes_first(larger: int, smaller: int) -> None:
    records = [run("b", "plain", batch_size=smaller)]
    records += [run(name, "plain", batch_size=larger) for name in ("a", "again")]
    assert chosen(*records) == {"plain": ["a", "again"]}


def test_the_runs_on_most_data_are_taken_and_those_on_other_data_named(tmp_path: Path) -> None:
    """A part held out makes other training data of the same; both belong to one comparison."""
    records = []
    for number, (data, held_out) in enumerate((("a", 0.0), ("b", 0.0), ("b", 0.0), ("b's part", 0.2))):
        records.append(run(str(number), "plain", path=tmp_path, dataset__validation=held_out))
        records[-1].path.mkdir()
        write_json(RunDirectory(records[-1].path).environment, {"data": {"fingerprint": data}})
    assert chosen(*records) == {"plain": ["1", "2", "3"]}
    assert ARMS.choose(records).notes == [
        "Left out: 1 run in another setting (other data); choose it with KEY=VALUE."
    ]  # fmt: skip


def test_a_whole_number_is_the_same_however_it_was_written_and_runs_of_no_arm_are_ignored() -> None:
    records = [run("float", "plain"), run("int", "plain", init__last_scale=1), run("other", "none")]
    assert chosen(*records) == {"plain": ["float", "int"]}
    assert ARMS.choose(records).notes == []
    longer = [run("float", "plain", label_smoothing=0.0), run("int", "plain", label_smoothing=0)]
    assert chosen(*longer) == {"plain": ["float", "int"]}, "also of what all share"
