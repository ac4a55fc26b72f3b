"""What the data are decides: no run counts as done, is continued or averaged with others on other data."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from farkas_exp import runs
from farkas_exp.config.identity import identify
from farkas_exp.data.files import prints
from farkas_exp.launch import execution, outcomes
from farkas_exp.launch.cli import main
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import DATASETS
from farkas_exp.report.arms import arms_table, group_arms
from farkas_exp.runs import open_run, read_json, read_run
from tests.configs import config
from tests.mnist_files import make_mnist
from tests.pictures import added, pictures, reclassified, renamed, replaced, swapped
from tests.stopping import stop_after


def job(root, runs_dir, name="image_folder", dataset=None, **options):
    options = {"epochs": 1, "batch_size": 4, "normalization": {"name": "none"}, **options}
    model = {"name": "mlp", "blocks": None, "widths": None, "depth": 1, "width": 4}
    own = {"name": name, "root": str(root), "train_limit": None, **(dataset or {})}
    if name != "image_folder":
        options["augmentation"] = {"crop_padding": 0, "flip": False, "cutout": 0}
        own |= {"image_size": 6, "workers": 0}
    return config(runs_dir, dataset=own, model=model, **options)


def command(root, runs_dir, *overrides, dataset="image_folder"):
    return [
        f"dataset={dataset}", f"dataset.root={root}", "dataset.image_size=6", "model=mlp", "model.depth=1",
        "model.width=4", "epochs=1", "batch_size=4", "augmentation=none", "wandb.mode=disabled", "device=cpu",
        "progress=none", f"runs_dir={runs_dir}", *overrides,
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# The label


def hashed(root, **dataset) -> str:
    return identify(job(root, "runs", dataset=dataset)).hash


@pytest.mark.parametrize("name", ["image_folder", "streamed_folder"])
def test_the_folders_name_is_the_label_and_part_of_the_identity(tmp_path, name):
    cats, cars = (identify(job(tmp_path / folder, "runs", name)) for folder in ("cats", "cars"))
    assert cats.hash != cars.hash
    assert "-cats-" in cats.slug
    assert job(tmp_path / "cats", "runs", name).dataset.label == "cats"
    assert identify(job(tmp_path / "x", "runs", name, {"label": "cats"})) == cats
    assert identify(job(tmp_path / "elsewhere" / "cats", "runs", name)) == cats


def test_the_way_a_path_is_written_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "data" / "cats" / "sub").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "data" / "cats")
    known = hashed(tmp_path / "data" / "cats")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "data" / "cats")
    for root in (
        f"{tmp_path}/data/cats/", f"{tmp_path}/data//cats/.", f"{tmp_path}/data/cats/sub/..", "~/data/cats", ".",
        "../cats", f"{tmp_path}/current", f"{tmp_path}/current/", "../../current/.",
    ):  # fmt: skip
        assert hashed(root) == known, root
    assert hashed(root, label="") == known


def test_a_label_is_text_that_every_file_can_take(tmp_path):
    assert job(tmp_path / "café au lait", "runs").dataset.label == "café au lait"
    assert job("/", "runs").dataset.label == "/"
    bytes_that_are_no_text = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    (tmp_path / "link").symlink_to(bytes_that_are_no_text)
    assert job(tmp_path / "link", "runs").dataset.label == "caf\\xe9"
    with pytest.raises(UserError, match=r"^dataset.root: .* must be a text"):
        job(bytes_that_are_no_text, "runs")


def test_roots_that_are_no_path_are_one_line(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for root in ("~nobody-of-this-name/data", "a\0b"):
        with pytest.raises(UserError, match=r"^dataset.root: "):
            job(root, "runs")
    with pytest.raises(UserError, match=r"^dataset.root: "):
        execution.execute(job(tmp_path / "loop", tmp_path / "runs"))


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "mnist", "moons", "synthetic", "imagenet"])
def test_data_that_their_name_tells_have_no_label(name):
    off = {"crop_padding": 0, "flip": False, "cutout": 0}
    root = {"root": "/data/somewhere"} if "root" in DATASETS[name].options else {}
    made = config("runs", augmentation=off, dataset={"name": name, **root})
    assert made.dataset.label is None
    assert identify(made).hash == identify(config("runs", augmentation=off, dataset={"name": name})).hash


# The fingerprint


def test_the_record_keeps_the_fingerprint_of_the_files(tmp_path):
    made = job(pictures(tmp_path / "cats"), tmp_path / "runs")
    execution.execute(made)
    record = read_run(open_run(made).path)
    assert record.data == read_json(open_run(made).record)["data"] == prints.prints(made.dataset, made.phases)
    assert list(record.data) == ["files"]
    digits = config(tmp_path / "runs", epochs=1)
    execution.execute(digits)
    assert read_json(open_run(digits).record)["data"] == {}


@pytest.mark.parametrize("name", ["image_folder", "streamed_folder"])
@pytest.mark.parametrize("change", [replaced, renamed, reclassified, added, swapped])
def test_a_finished_run_counts_as_done_only_for_the_same_data(tmp_path, name, change):
    root = pictures(tmp_path / "cats")
    made = job(root, tmp_path / "runs", name)
    assert execution.execute(made).status == runs.FINISHED
    outcome = execution.execute(made)
    assert (outcome.status, outcome.note) == (outcomes.SKIPPED, outcome.note.split("; ")[0])
    before = contents(tmp_path / "runs")
    change(root)
    for again in (made, dataclasses.replace(made, retry_failed=True)):
        with pytest.raises(
            UserError, match=f"^dataset: {root} is not the data this run began with .*move {tmp_path}/runs/"
        ):
            execution.execute(again)
        assert contents(tmp_path / "runs") == before
    other = job(root, tmp_path / "runs", name, {"label": "new"})
    assert execution.execute(other).status == runs.FINISHED


def test_the_command_says_what_to_do_in_one_line(tmp_path, capsys):
    root = pictures(tmp_path / "cats")
    arguments = command(root, tmp_path / "runs")
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "skipped: " in capsys.readouterr().out
    replaced(root)
    assert main(arguments) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: dataset: {root} is not the data this run began with (fingerprint of the files ")
    assert "give the new data another dataset.label or runs_dir, or move " in error


def test_in_a_sweep_only_the_runs_on_other_data_are_refused(tmp_path, capsys, monkeypatch):
    cats, cars = pictures(tmp_path / "cats"), pictures(tmp_path / "cars", 50)
    arguments = [*command(f"{cats},{cars}", tmp_path / "runs"), "-m", "seed=0,1"]
    assert main(arguments) == 0
    replaced(cars)
    capsys.readouterr()
    listed, list_images = [], prints.list_images
    monkeypatch.setattr(prints, "list_images", lambda *a, **k: listed.append(a[0]) or list_images(*a, **k))
    assert main(arguments) == 2
    out = capsys.readouterr().out
    assert "4 runs in" in out
    assert "2 skipped, 2 refused" in out
    assert sorted(listed) == [str(cars), str(cats)], "once a sweep"
    replaced_again = pictures(cats, 9)
    assert main(command(replaced_again, tmp_path / "runs")) == 2, "and not once a process"


def test_local_processes_refuse_them_too(tmp_path, capfd):
    root = pictures(tmp_path / "cats")
    arguments = [*command(root, tmp_path / "runs"), "-m", "seed=0,1"]
    assert main(arguments) == 0
    replaced(root)
    assert main([*arguments, "hydra/launcher=local_parallel", "hydra.launcher.n_jobs=1"]) == 2
    assert "2 refused" in capfd.readouterr().out


def crash(monkeypatch):
    monkeypatch.setattr("farkas_exp.training.trainer.Trainer._train_step", lambda *_: 1 / 0)


def crash_before_the_first_step(monkeypatch):
    monkeypatch.setattr("farkas_exp.training.session.build_model", lambda *_: 1 / 0)


def interrupt(monkeypatch):
    stop_after(1, monkeypatch)


def fail(monkeypatch):
    monkeypatch.setattr("farkas_exp.training.session.train_to_end", fails)


def fails(trainer, state, stop, listener):
    from farkas_exp.training.loop import train_to_end

    train_to_end(trainer, state, stop, listener)
    return "it stands still"


@pytest.mark.parametrize(
    ("end", "status"),
    [(crash_before_the_first_step, runs.CRASHED), (crash, runs.CRASHED), (interrupt, runs.INTERRUPTED),
     (fail, runs.FAILED)],
)  # fmt: skip
def test_a_run_that_ended_otherwise_goes_on_only_with_the_same_data(tmp_path, monkeypatch, end, status):
    root = pictures(tmp_path / "cats")
    made = job(root, tmp_path / "runs", epochs=2)
    with monkeypatch.context() as patched:
        end(patched)
        assert execution.execute(made).status == status
    before = contents(tmp_path / "runs")
    replaced(root)
    for again in (made, dataclasses.replace(made, retry_failed=True)):
        with pytest.raises(UserError, match=r"^dataset: .* is not the data this run began with"):
            execution.execute(again)
        assert contents(tmp_path / "runs") == before, "nothing is lost"
    pictures(root)
    assert execution.execute(dataclasses.replace(made, retry_failed=True)).status == runs.FINISHED


def test_a_finished_run_whose_data_are_gone_is_skipped_and_says_so(tmp_path):
    made = job(pictures(tmp_path / "cats"), tmp_path / "runs")
    execution.execute(made)
    shutil.rmtree(tmp_path / "cats")
    outcome = execution.execute(made)
    assert outcome.status == outcomes.SKIPPED
    assert outcome.note.endswith("; its data are not on this machine")


def test_data_that_can_no_longer_be_used_are_not_the_same(tmp_path):
    root = pictures(tmp_path / "cats")
    made = job(root, tmp_path / "runs")
    execution.execute(made)
    shutil.rmtree(root / "train" / "one")
    with pytest.raises(UserError, match=r"^dataset.root: .*at least 2 are needed"):
        execution.execute(made)


def test_a_record_that_is_older_than_fingerprints_is_skipped_and_says_so(tmp_path):
    made = job(pictures(tmp_path / "cats"), tmp_path / "runs")
    execution.execute(made)
    record = read_json(open_run(made).record)
    del record["data"], record["checksum"]  # which is younger still
    runs.write_json(open_run(made).record, record)
    outcome = execution.execute(made)
    assert (outcome.status, outcome.note.split("; ")[-1]) == (
        outcomes.SKIPPED,
        "its record is older than fingerprints of data",
    )


def test_mnists_layout_with_other_digits_is_other_data(tmp_path):
    folder = make_mnist(tmp_path / "data", train=40)
    made = config(
        tmp_path / "runs", dataset={"name": "mnist", "root": str(tmp_path / "data"), "train_limit": None}, epochs=1,
        augmentation={"crop_padding": 0, "flip": False, "cutout": 0},
    )  # fmt: skip
    assert execution.execute(made).status == runs.FINISHED
    assert execution.execute(made).status == outcomes.SKIPPED
    images = folder / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1] + b"\x08")
    with pytest.raises(UserError, match="is not the data this run began with"):
        execution.execute(made)


# Reports


def test_seeds_on_other_data_are_no_repetitions_of_one_arm(tmp_path):
    root = pictures(tmp_path / "cats")
    for seed in (0, 1):
        execution.execute(job(root, tmp_path / "runs", seed=seed))
    replaced(root)
    execution.execute(job(root, tmp_path / "runs", seed=2))
    arms = group_arms(runs.collect(tmp_path / "runs"))
    assert sorted([run.seed for run in arm.runs] for arm in arms) == [[0, 1], [2]]
    assert len({arm.label for arm in arms}) == 2
    assert all("data " in arm.label for arm in arms)
    assert len(arms_table(arms).rows) == 2


def test_unknown_data_are_taken_for_the_ones_that_are_known(tmp_path):
    root = pictures(tmp_path / "cats")
    for seed in (0, 1):
        execution.execute(job(root, tmp_path / "runs", seed=seed))
    record = open_run(job(root, tmp_path / "runs")).record
    older = {key: value for key, value in read_json(record).items() if key != "checksum"}
    runs.write_json(record, {**older, "data": {}})
    (arm,) = group_arms(runs.collect(tmp_path / "runs"))
    assert [run.seed for run in arm.runs] == [0, 1]
    assert "data" not in arm.label
