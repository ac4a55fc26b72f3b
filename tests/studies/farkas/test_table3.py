"""Table 3's pipeline in small, from a folder of images to a result: every phase, stopped in each, and continued."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from farkas_exp import runs
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.data.files.resize import main as resize
from farkas_exp.launch import execution
from farkas_exp.launch.cli import main
from farkas_exp.runs import RunDirectory, open_run, read_json, read_rows
from farkas_exp.training.building import build_model
from farkas_exp.training.schedule import learning_rate_at
from farkas_exp.training.trainer import Trainer
from scripts.make_image_folder import make_folder
from tests.composing import composed
from tests.paths import ROOT
from tests.ranks import command, command_with, in_ranks
from tests.stopping import assert_same, stop_after

STEPS = (3, 3, 1, 3, 1, 3)
"""Steps of the six epochs of phases=mini for 48 training images."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_folder(folder, classes=6, train=8, val=3, size=32)
    return folder


def job(root, runs_dir, *overrides, model="farkasnet50_imagenet", workers=0):
    return composed(
        "experiment=table3_mini", f"model={model}", f"dataset.root={root}", f"runs_dir={runs_dir}",
        f"dataset.workers={workers}", "model.blocks=[1,1]", "model.widths=[8,16]", "wandb.mode=disabled",
        "progress=none", "device=cpu", *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    made = job(root, tmp_path_factory.mktemp("whole"))
    assert execution.execute(made).status == runs.FINISHED
    return open_run(made)


def test_a_run_goes_through_every_phase(whole):
    rows = read_rows(whole.metrics)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    phases = [(0.03, 0.06, 0, 2), (0.03, 0.06, 0, 2), (0.03, 0.004, 2, 3), (0.03, 0.003, 3, 4)]
    phases += [(0.0016, 0.00016, 4, 5), (3.1e-4, 3.1e-5, 5, 6)]
    last = [a + (b - a) * (e + (n - 1) / n - start) / (end - start)
            for e, (n, (a, b, start, end)) in enumerate(zip(STEPS, phases, strict=True))]  # fmt: skip
    assert [row["lr"] for row in rows] == pytest.approx(last)
    result = read_json(whole.result)
    assert result["test_error_top5"] == rows[-1]["test_error_top5"]
    assert all(0 <= row["test_error_top5"] <= row["test_error"] for row in rows)
    assert read_json(whole.environment)["data"]["train"] == 48


def test_every_step_has_its_own_rate_and_every_epoch_is_evaluated_at_its_own_size(root, tmp_path, monkeypatch):
    made, step, evaluate, found = job(root, tmp_path), Trainer._train_step, Trainer.evaluate, []

    def watched_step(self, images, labels):
        found.append((self.optimizer.param_groups[0]["lr"], len(images), images.shape[-1]))
        return step(self, images, labels)

    def watched_evaluation(self, epoch):
        shapes = {tuple(images.shape[2:]) for images, _ in self.data.test_batches(epoch)}
        found.append(sorted(shapes))
        monkeypatch.setattr(self.data, "test_batches", lambda epoch: given.append(epoch) or original(epoch))
        given, original = [], type(self.data).test_batches.__get__(self.data)
        result = evaluate(self, epoch)
        assert given == [epoch]
        return result

    monkeypatch.setattr(Trainer, "_train_step", watched_step)
    monkeypatch.setattr(Trainer, "evaluate", watched_evaluation)
    execution.execute(made)
    rates = iter(found)
    for epoch, steps in enumerate(STEPS):
        phase = made.phases.at(epoch)
        for number in range(steps):
            lr, batch, size = next(rates)
            assert lr == pytest.approx(learning_rate_at(made, epoch, number, steps))
            assert (batch, size) == (phase.batch_size, phase.image_size)
        shapes = next(rates)
        assert (shapes == [(phase.image_size, phase.image_size)]) == (not phase.rectangular)
        assert min(map(min, shapes)) == phase.image_size
    assert next(rates, None) is None


@pytest.mark.parametrize("steps", [2, 5, 7, 8, 11, 13])
def test_a_run_stopped_in_any_phase_goes_on_to_the_same_numbers_bitwise(whole, root, tmp_path, monkeypatch, steps):
    assert sum(STEPS) == 14
    made = job(root, tmp_path)
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        assert execution.execute(made).status == runs.INTERRUPTED
    assert execution.execute(made).status == runs.FINISHED
    assert_same(whole, open_run(made))


def test_decoding_processes_change_no_number(whole, root, tmp_path):
    made = job(root, tmp_path, workers=2)
    assert execution.execute(made).status == runs.FINISHED
    assert_same(whole, open_run(made))


def test_fewer_epochs_stop_early_on_the_same_schedule(whole, root, tmp_path):
    made = job(root, tmp_path, "epochs=2")
    assert execution.execute(made).status == runs.FINISHED
    keys = ("lr", "train_loss", "test_loss", "test_error")
    first = [[row[key] for key in keys] for row in read_rows(whole.metrics)][:2]
    assert [[row[key] for key in keys] for row in read_rows(open_run(made).metrics)] == first


def test_the_evaluation_counts_every_image_and_both_errors(root):
    made = job(root, "unused", "dataset.normalize=false")
    data = build_data(made.dataset, made.augmentation, Batching(8, 0), made.phases)
    model = build_model(made, data, torch.device("cpu"))
    trainer = Trainer(made, model, torch.optim.SGD(model.parameters(), lr=0.1), data, torch.device("cpu"))
    model.eval()
    with torch.no_grad():
        outputs = [(model(images), labels) for images, labels in data.test_batches(2)]
    logits, labels = (torch.cat(values) for values in zip(*outputs, strict=True))
    found = trainer.evaluate(2)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert len(labels) == 18
    assert found["test_error"] == pytest.approx(100 * float((ranks > 0).float().mean()))
    assert found["test_error_top5"] == pytest.approx(100 * float((ranks > 4).float().mean()))
    assert found["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def test_five_classes_and_images_in_memory_have_no_top5(root, tmp_path):
    make_folder(tmp_path / "five", classes=5, train=4, val=2, size=24)
    made = job(
        tmp_path / "five", tmp_path / "runs", "epochs=1", "phases=none", "dataset.image_size=32", "batch_size=10"
    )
    assert execution.execute(made).status == runs.FINISHED
    assert "test_error_top5" not in read_rows(open_run(made).metrics)[0]
    assert "test_error_top5" not in read_json(open_run(made).result)


# Two processes


def stop_one_of_two(rank):
    """The second process is told to stop in the third phase's only step, seven steps after the start."""
    if rank != 1:
        return
    step, count = Trainer._train_step, 0

    def counted(self, images, labels):
        nonlocal count
        count += 1
        if count == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, images, labels)

    Trainer._train_step = counted


def test_two_processes_train_through_the_phases_as_one_and_go_on_when_stopped(root, tmp_path):
    def arguments(runs_dir):
        return [
            "dataset=streamed_folder", "phases=mini", f"dataset.root={root}", "model=farkasnet50_imagenet",
            "model.blocks=[1,1]", "model.widths=[8,16]", "aggregation=mean", "failure.epochs=0", "device=cpu",
            "dataset.workers=0", "progress=none", "wandb.mode=disabled", f"runs_dir={tmp_path / runs_dir}",
        ]  # fmt: skip

    assert main(arguments("one")) == 0
    assert [answer[0] for answer in in_ranks(2, command, *arguments("two"))] == [0, 0]
    assert [answer[0] for answer in in_ranks(2, command_with, stop_one_of_two, *arguments("stopped"))] == [75, 75]
    assert [answer[0] for answer in in_ranks(2, command, *arguments("stopped"))] == [0, 0]
    one, two, stopped = (next((tmp_path / name).glob("*/seed_0")) for name in ("one", "two", "stopped"))
    assert_same(RunDirectory(two), RunDirectory(stopped))
    rows = list(zip(read_rows(one / "metrics.jsonl"), read_rows(two / "metrics.jsonl"), strict=True))
    assert len(rows) == 6
    for alone, together in rows:
        assert together["lr"] == alone["lr"]
        for key in ("train_loss", "test_loss"):
            assert together[key] == pytest.approx(alone[key], rel=1e-4)
        for key in ("train_error", "test_error", "test_error_top5"):
            assert together[key] == pytest.approx(alone[key], abs=100 / 18 + 1e-6), "a tie may fall either way"
    assert read_json(two / "environment.json")["starts"][0]["world_size"] == 2


# The commands


@pytest.mark.parametrize("name", ["streamed_folder", "image_folder"])
def test_check_data_lists_every_broken_file_in_one_line_each(tmp_path, capfd, name):
    make_folder(tmp_path, classes=3, train=30, val=5, size=24)
    (tmp_path / "val" / "n00000000" / "zzz.webp").write_bytes(b"")
    command = ["--check-data", f"dataset={name}", f"dataset.root={tmp_path}", "dataset.workers=2"]
    assert main(command) == 0
    out = capfd.readouterr().out
    assert "3 classes, 90 training and 15 evaluation images; all 105 images decode" in out
    assert f"'{tmp_path}': left out 1 with the suffix .webp (such as 'val/n00000000/zzz.webp')\n" in out
    files = sorted((tmp_path / "train").glob("*/*"))[::40] + sorted((tmp_path / "val").glob("*/*"))[:1]
    for file, content in zip(files, (b"", b"\xff\xd8\xff", b"text", b"x"), strict=True):
        file.write_bytes(content)
    assert main(command) == 1
    *lines, _, summary = capfd.readouterr().out.splitlines()
    assert [any(str(file) in line for line in lines) for file in files] == [True] * 4
    assert len(lines) == 4
    assert "4 of 105 images are broken" in summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=digits"], "--check-data: digits is not a folder of images; it is for dataset=image_folder, "),
        (["dataset=imagenet", "dataset.root=/nowhere"], "dataset.root: '/nowhere' is not a folder"),
        (["dataset=imagenet"], "dataset.root: missing"),
        (["dataset=imagenets"], "dataset: unknown 'imagenets'; did you mean 'imagenet'?"),
    ],
)
def test_check_datas_mistakes_are_one_line(arguments, message, capfd):
    assert main(["--check-data", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1


def test_resized_copies_are_continued_and_hold_every_file(tmp_path, capsys):
    from PIL import Image

    make_folder(tmp_path / "made", classes=2, train=9, val=3, size=64, tiny=True)
    small = tmp_path / "made" / "train" / "n00000000" / "images" / "small.png"
    Image.new("L", (20, 30), 9).save(small)
    command = [str(tmp_path / "made"), "size=32", "--workers", "0"]
    assert resize(command) == 0
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "made-32").rglob("*.*")}
    assert {path.relative_to(tmp_path / "made-32") for path in copies} == {
        path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*.*")
    }
    for path in copies:
        if path.suffix == ".JPEG":
            with (
                Image.open(path) as image,
                Image.open(tmp_path / "made" / path.relative_to(tmp_path / "made-32")) as old,
            ):
                assert min(image.size) == 32
                assert image.width / image.height == pytest.approx(old.width / old.height, rel=0.03)
    copy = tmp_path / "made-32" / small.relative_to(tmp_path / "made")
    assert copy.read_bytes() == small.read_bytes(), "never enlarged"
    gone = next(path for path in copies if path.suffix == ".JPEG")
    gone.unlink()
    assert resize(command) == 0
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "made-32").rglob("*.*")}
    assert [path for path in copies if again[path] != copies[path] and path.suffix != ".txt"] == [gone]
    small.write_bytes(b"broken")
    capsys.readouterr()
    assert resize(command) == 1
    assert "small.png' (" in capsys.readouterr().out
    assert resize([str(tmp_path / "nowhere"), "size=32"]) == 2


def test_a_part_of_a_folder_is_averaged_into_png_and_cannot_be_mixed_with_another(tmp_path, capsys):
    from PIL import Image

    make_folder(tmp_path / "made", classes=2, train=10, val=4, size=64)
    command = [str(tmp_path / "made"), str(tmp_path / "small"), "size=16", "--area", "--workers", "0"]
    assert resize([*command, "--train", "4", "--test", "2"]) == 0
    copies = sorted((tmp_path / "small").rglob("*.png"))
    assert len(copies) == 2 * (4 + 2)
    for folder in sorted((tmp_path / "small" / "train").iterdir()):
        originals = sorted((tmp_path / "made" / "train" / folder.name).iterdir())
        chosen = [originals[number] for number in (0, 2, 5, 7)]
        assert sorted(path.stem for path in folder.iterdir()) == [path.stem for path in chosen]
        for original in chosen:
            with Image.open(original) as old, Image.open(folder / f"{original.stem}.png") as new:
                assert min(new.size) == 16
                expected = old.convert("RGB").resize(new.size, Image.Resampling.BOX)
                assert new.tobytes() == expected.tobytes()
    before = {path: path.read_bytes() for path in copies}
    assert resize([*command, "--train", "3", "--test", "2"]) == 2
    assert "not of this choice; choose another target" in capsys.readouterr().err
    assert resize([*command, "--train", "11"]) == 2
    assert "the class 'n00000000' has 10 train images, 11 are asked for" in capsys.readouterr().err
    with Image.open(next((tmp_path / "made" / "train" / "n00000001").iterdir())) as image:
        image.save(next((tmp_path / "made" / "train" / "n00000001").iterdir()).with_suffix(".png"))
    assert resize(command) == 2
    assert "2 images would get this name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "small").rglob("*.png")} == before


@pytest.mark.slow
def test_the_commands_of_the_documentation(tmp_path):
    def run(*command):
        return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run("scripts/make_image_folder.py", str(tmp_path / "made"), "--classes", "6", "--train", "8").returncode == 0
    copied = run("scripts/resize_images.py", str(tmp_path / "made"), "size=80")
    assert (copied.returncode, "108 of 108 images" in copied.stdout) == (0, True), copied.stdout + copied.stderr
    trained = run(
        "-m", "farkas_exp", "experiment=table3_mini", f"dataset.root={tmp_path / 'made'}", "dataset.copies=[80]",
        f"runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "2 runs in" in trained.stdout
