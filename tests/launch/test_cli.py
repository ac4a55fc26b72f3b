"""The command line as a user meets it."""

import re
import signal
from pathlib import Path

import pytest
import yaml

from farkas_exp import runs
from farkas_exp.config import parse
from farkas_exp.config.store import config_dir
from farkas_exp.launch.cli import main
from farkas_exp.runs import collect, status
from tests.composing import composed
from tests.small_command import SMALL, small
from tests.stopping import stop_after


def test_one_run_trains_and_the_same_command_again_says_that_it_is_done(tmp_path, capsys):
    assert small(tmp_path) == 0
    assert "finished: " in capsys.readouterr().out
    assert small(tmp_path) == 0
    assert "done before: test error" in capsys.readouterr().out
    assert [record.state for record in collect(tmp_path)] == [runs.FINISHED]


def test_a_multirun_trains_every_combination_once_and_sums_up(tmp_path, capsys):
    sweep = ["-m", "normalization=none,batch", "seed=0,1"]
    assert small(tmp_path, *sweep) == 0
    assert "4 runs in" in capsys.readouterr().out
    records = collect(tmp_path)
    assert {(record.config["normalization"]["name"], record.seed) for record in records} == {
        ("none", 0), ("none", 1), ("batch", 0), ("batch", 1),
    }  # fmt: skip
    assert len({record.identity for record in records}) == 2
    assert small(tmp_path, *sweep) == 0
    assert "4 skipped" in capsys.readouterr().out


def test_a_mistake_in_one_job_leaves_the_others_alone(tmp_path, capsys):
    status = small(tmp_path, "-m", "init=pytorch,kaiming", "init.name=pytorch,kaimin", "epochs=1")
    out = capsys.readouterr().out
    assert status == 2
    assert "init.name: unknown 'kaimin'; did you mean 'kaiming'?" in out
    assert "1 finished" in out


def test_a_cuda_device_that_is_not_there_is_said_in_one_line(tmp_path, capfd):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main([*SMALL[:-3], f"runs_dir={tmp_path}", "device=cuda"]) == 2
    assert "device: PyTorch sees no GPU for cuda" in capfd.readouterr().err


@pytest.mark.parametrize("command", [main, status.main], ids=["training", "a small command"])
def test_a_current_folder_that_has_been_deleted_is_said_in_one_line(tmp_path, monkeypatch, capfd, command):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert command([]) == 2
    assert re.fullmatch("error: the current folder has been deleted; .*\n", capfd.readouterr().err)
    assert command(["--help"]) == 0


def test_help_names_every_group_with_its_choices_and_an_example(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    groups = [path.name for path in Path(config_dir()).iterdir() if path.is_dir() and path.name != "hydra"]
    for group in groups:
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {group}: ")]
        choices = line.partition(": ")[2].split(", ")
        assert choices == sorted(choices)
        assert {path.stem for path in (Path(config_dir()) / group).glob("*.yaml")} <= set(choices)
        assert f"  {group}=" in shown or f" {group}=" in shown


def test_cfg_job_prints_a_config_that_the_schema_accepts(capsys):
    assert main(["model=farkasnet34", "normalization=none", "aggregation=mean", "lr=small", "--cfg", "job"]) == 0
    made = parse(yaml.safe_load(capsys.readouterr().out))
    assert (made.model.name, made.aggregation.name, made.lr.value, made.dataset.name) == (
        "farkasnet34", "mean", 0.01, "cifar10",
    )  # fmt: skip


def test_the_base_configuration_is_the_papers():
    made = composed()
    assert (made.epochs, made.batch_size, made.lr.milestones, made.lr.gamma) == (200, 128, (60, 120, 160), 0.2)
    assert (made.optimizer.name, made.optimizer.momentum, made.optimizer.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (made.optimizer.nesterov, made.optimizer.decay) == (False, "weights")
    augmentation = made.augmentation
    assert (augmentation.crop_padding, augmentation.flip, augmentation.cutout, augmentation.cutout_fill) == (
        4, True, 16, "mean",
    )  # fmt: skip
    assert made.dataset.normalize is False
    assert (made.init.name, made.aggregation.name, made.failure.epochs) == ("pytorch", "sum", 5)


PLAIN = {path.name for path in Path(config_dir()).iterdir() if path.is_dir()} - {"hydra", "experiment"}


@pytest.mark.parametrize("group", sorted(PLAIN))
def test_every_choice_of_every_group_composes(group):
    for path in (Path(config_dir()) / group).glob("*.yaml"):
        extra = ["dataset.root=x"] if path.stem == "image_folder" else []
        extra += ["dataset=imagenet", "dataset.root=x"] if group == "phases" else []
        made = composed(f"{group}={path.stem}", *extra)
        assert made is not None
        named = getattr(getattr(made, group), "name", path.stem)
        # A file may set another name than its own: sgd_imagenet is sgd with other options.
        written = (yaml.safe_load(path.read_text()) or {}).get("name", path.stem)
        assert named == written.replace("rect_mlp", "mlp") or group == "dataset"


def test_the_first_interrupt_leaves_a_checkpoint_and_status_75(tmp_path, monkeypatch, capsys):
    stop_after(7, monkeypatch, signal.SIGINT)  # in the second epoch
    assert small(tmp_path) == 75
    assert "the same command goes on from there" in capsys.readouterr().out
    (record,) = collect(tmp_path)
    assert record.state == runs.INTERRUPTED
    assert (record.path / "checkpoint.pt").exists()
