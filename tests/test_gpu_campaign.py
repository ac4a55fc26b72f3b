"""The campaign for a GPU that is lent for minutes: stopped, packed, and continued elsewhere to the same numbers."""

import sys
import threading
import time

import pytest

from farkas_exp.machine.errors import UserError
from farkas_exp.runs import RunDirectory
from tests.paths import ROOT
from tests.stopping import assert_same

sys.path.insert(0, str(ROOT / "scripts"))

import gpu_campaign as campaign

CELLS = """
# two networks
model=mlp,farkas_mlp  model.depth=1 model.width=8 seed=0   # side by side
model=mlp model.depth=1 model.width=8 seed=3
"""
SMALL = [
    "dataset=digits", "dataset.train_limit=200", "lr=small", "epochs=30", "batch_size=10", "failure.epochs=0",
    "device=cpu", "checkpoint.every_minutes=0",
]  # fmt: skip


def test_a_line_of_the_list_is_every_combination_of_its_values():
    assert campaign.read_cells(CELLS) == [
        ["model=mlp", "model.depth=1", "model.width=8", "seed=0"],
        ["model=farkas_mlp", "model.depth=1", "model.width=8", "seed=0"],
        ["model=mlp", "model.depth=1", "model.width=8", "seed=3"],
    ]
    with pytest.raises(UserError, match=r"line 2 of the list: .*b==\["):
        campaign.read_cells("a=1\nb==[\n")


def test_the_list_in_the_repository_composes():
    from tests.composing import composed

    cells = campaign.read_cells((ROOT / "scripts" / "gpu_campaign.txt").read_text())
    runs = [composed(*cell, *(text for text in campaign.ALWAYS if not text.startswith("hydra"))) for cell in cells]
    assert len(runs) > 30
    assert None not in runs, "an arm that is not for its network"
    assert {(run.dataset.name, run.epochs) for run in runs if run} == {("cifar10", 200)}


def made(folder, files):
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((name.encode() * size)[:size])
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_packed_is_unpacked_in_volumes_and_without_what_need_not_travel(tmp_path):
    carried = {"a/seed_0/metrics.jsonl": 700, "a/seed_0/checkpoint.pt": 90_000, "b/seed_1/result.json": 20}
    runs = made(tmp_path / "runs", {
        **carried, "a/seed_0/checkpoint.previous.pt": 9, "a/seed_0/wandb/x.wandb": 9, "a/seed_0/.x.tmp": 9,
    })  # fmt: skip
    for _ in range(2):  # the second time in place of the first
        assert campaign.pack(runs, tmp_path / "out", most_bytes=30_000) == []
    names = [path.name for path in campaign.volumes_in(tmp_path / "out")]
    assert names == ["runs.1", "runs.2", "runs.3", "runs.4.last"]
    assert max(path.stat().st_size for path in (tmp_path / "out").iterdir()) == 30_000
    campaign.unpack(tmp_path / "out", tmp_path / "again")
    assert content(tmp_path / "again") == {name: (runs / name).read_bytes() for name in carried}


def test_a_link_is_not_packed_and_so_cannot_spoil_the_rest(tmp_path):
    runs = made(tmp_path / "runs", {"a/seed_0/metrics.jsonl": 700})
    (runs / "a" / "notes").symlink_to(tmp_path / "elsewhere")
    (runs / "passwords").symlink_to("/etc/passwd")
    campaign.pack(runs, tmp_path / "out")
    campaign.unpack(tmp_path / "out", tmp_path / "again")
    assert list(content(tmp_path / "again")) == ["a/seed_0/metrics.jsonl"]


@pytest.mark.parametrize("options", [["--minutes=nan"], ["--minutes=-1"], ["--minutes=1", "--at-once=0"]])
def test_a_call_that_could_never_train_is_a_mistake(tmp_path, capsys, options):
    with pytest.raises(SystemExit) as left:
        campaign.main([*options, f"--out={tmp_path}"])
    assert left.value.code == 2
    assert "must be above 0" in capsys.readouterr().err


def test_where_room_is_short_weights_of_finished_runs_stay_behind_first(tmp_path):
    runs = made(tmp_path / "runs", {
        "a/seed_0/checkpoint.pt": 40_000, "a/seed_0/result.json": 20,
        "b/seed_0/checkpoint.pt": 40_000, "b/seed_0/metrics.jsonl": 20,
    })  # fmt: skip
    left_out = campaign.pack(runs, tmp_path / "out", most_bytes=40_000, most_files=2)
    assert left_out == [runs / "a/seed_0/checkpoint.pt"]
    assert len(campaign.volumes_in(tmp_path / "out")) <= 2
    campaign.unpack(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "again/b/seed_0/checkpoint.pt").stat().st_size == 40_000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out, to: (out / "runs.1").unlink(), "a file is missing"),
        (lambda out, to: (out / "runs.3.last").unlink(), "a file is missing"),
        (lambda out, to: [path.unlink() for path in out.iterdir()], "no files of a campaign"),
        (lambda out, to: (out / "runs.1").write_bytes(b"x" * 2000), "are damaged"),
        (lambda out, to: made(to, {"c/config.yaml": 3}), "has runs already"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(tmp_path, capsys, damage, message):
    runs = made(tmp_path / "runs", {"a/seed_0/checkpoint.pt": 90_000})
    campaign.pack(runs, tmp_path / "out", most_bytes=40_000)
    damage(tmp_path / "out", tmp_path / "again")
    options = ["--minutes=1", f"--out={tmp_path / 'new'}", f"--go-on={tmp_path / 'out'}"]
    assert campaign.main([*options, f"--runs-dir={tmp_path / 'again'}"]) == 2
    assert message in capsys.readouterr().err


def train(folder, until):
    pool = campaign.Pool(2, until, folder / "campaign.log")
    folder.mkdir(exist_ok=True)
    common = [*campaign.ALWAYS, *SMALL, f"runs_dir={folder}"]
    return pool, [[*cell, *common] for cell in campaign.read_cells(CELLS)]


@pytest.mark.slow
def test_a_campaign_that_is_stopped_packed_and_continued_gives_the_numbers_of_one_left_in_peace(tmp_path):
    pool, cells = train(tmp_path / "peace", float("inf"))
    assert pool.train(cells) == {0: 3}

    pool, cells = train(tmp_path / "stopped", float("inf"))

    def stop_in_the_first_run():
        while not list((tmp_path / "stopped").glob("*/seed_*/metrics.jsonl")):
            time.sleep(0.01)
        pool.until = 0.0

    watcher = threading.Thread(target=stop_in_the_first_run)
    watcher.start()
    statuses = pool.train(cells)
    watcher.join()
    assert statuses[75] >= 2, "one is stopped, the third not begun"
    assert campaign.pack(tmp_path / "stopped", tmp_path / "out") == []
    campaign.unpack(tmp_path / "out", tmp_path / "elsewhere")
    pool, cells = train(tmp_path / "elsewhere", float("inf"))
    assert pool.train(cells) == {0: 3}
    for path in sorted((tmp_path / "peace").glob("*/seed_*")):
        assert_same(RunDirectory(path), RunDirectory(tmp_path / "elsewhere" / path.relative_to(tmp_path / "peace")))


@pytest.mark.slow
def test_the_command_stops_by_itself_and_goes_on_until_all_is_done(tmp_path, capfd):
    cells = tmp_path / "cells.txt"
    cells.write_text("model=mlp model.depth=1 model.width=8 seed=0,1\n")

    def call(minutes, name, *go_on):
        place = [f"--out={tmp_path / name / 'out'}", f"--runs-dir={tmp_path / name / 'runs'}", f"--cells={cells}"]
        return campaign.main([f"--minutes={minutes}", *place, *go_on, *SMALL, "epochs=2"])

    assert call(0.001, "first") == 75, "no time to begin"
    assert call(10, "second", f"--go-on={tmp_path / 'first' / 'out'}") == 0
    assert "2 done; 1 files" in capfd.readouterr().out


@pytest.mark.parametrize(("status", "shared"), [(0, True), (1, False)])
def test_processes_share_a_gpu_while_the_server_of_mps_runs(status, shared, tmp_path, monkeypatch):
    control, said = tmp_path / "nvidia-cuda-mps-control", tmp_path / "said"
    control.write_text(
        f'#!/bin/sh\n[ "$1" = -d ] || cat\necho "$@" "$CUDA_MPS_PIPE_DIRECTORY" >> {said}\nexit {status}\n'
    )
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with campaign.sharing(tmp_path / "mps") as environment:
        assert (environment.get("CUDA_MPS_PIPE_DIRECTORY") == str(tmp_path / "mps")) == shared
    assert said.read_text().split("\n")[0] == f"-d {tmp_path / 'mps'}"
    assert len(said.read_text().splitlines()) == (2 if shared else 1), "the server is told to quit"


def test_without_mps_nothing_is_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with campaign.sharing(tmp_path) as environment:
        assert environment == {}
