"""A trained run in Python: its network, its figures again to the last digit, other data, predictions."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import farkas_exp
from farkas_exp.data.base import DataInfo
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import read_json, read_run, write_json
from farkas_exp.runs.jsonfiles import sealed
from tests.trained.conftest import NAMES, folder_of_digits, trained


def test_a_run_is_evaluated_to_the_last_digit_of_its_record(path):
    run, result = farkas_exp.load(path), read_json(path / "result.json")
    assert run.evaluate() == {name: result[name] for name in ("validation_loss", "validation_error")}
    assert (run.epoch, run.classes, run.result["epochs"]) == (1, tuple(NAMES), 1)
    with pytest.raises(UserError, match=r"^dataset\.normalize: images are standardized as those of the run were"):
        run.evaluate(normalize=False)
    assert not run.network.training
    rows = run.metrics if isinstance(run.metrics, list) else run.metrics.to_dict("records")
    assert rows[0]["validation_error"] == result["validation_error"]


def test_the_test_set_of_a_run_that_has_held_images_out(path):
    run = farkas_exp.load(path)
    found = run.evaluate(validation=0)
    arrays = folder_of_digits(path.parent / "unused")
    images = arrays.test_images.permute(0, 3, 1, 2)
    wrong = (run.predict(images) != arrays.test_labels).sum()
    assert found["test_error"] == pytest.approx(100 * float(wrong) / 360)
    assert set(found) == {"test_error", "test_loss"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_probabilities_are_of_standardized_images_in_the_precision_of_the_run(precision, tmp_path):
    run = farkas_exp.load(trained(tmp_path, epochs=1, precision=precision, dataset={"normalize": True}), "cpu")
    images, (mean,), (std,) = torch.rand(3, 1, 8, 8), run.info.mean, run.info.std
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = run.network((images - mean) / std)
    torch.testing.assert_close(run.probabilities(images), logits.float().softmax(1), rtol=0, atol=1e-6)


def test_a_run_on_a_few_batches_is_evaluated_on_them(tmp_path, monkeypatch):
    monkeypatch.setattr("farkas_exp.data.device.TEST_BATCH_VALUES", 50 * 8 * 8)
    run = farkas_exp.load(trained(tmp_path, epochs=1, debug="fast"))
    assert run.evaluate() == {name: run.result[name] for name in ("test_loss", "test_error")}


def test_what_a_run_was_trained_on_is_not_evaluated_as_held_out(path, tmp_path):
    run = farkas_exp.load(path)
    expected = (
        r"^dataset.validation: the run was trained on .* what it held out \(dataset.validation=0.25\) or the test"
    )
    for options in ({"validation": 0.5}, {"train_limit": 100}, {"dataset": "digits", "validation": 0.1}):
        with pytest.raises(UserError, match=expected):
            run.evaluate(**options)
    folder_of_digits(tmp_path / "other")
    found = run.evaluate("image_folder", root=str(tmp_path / "other"), validation=0.5)  # other images
    assert "validation_error" in found
    shutil.copytree(tmp_path / "other", tmp_path / "copy")
    own = {"name": "image_folder", "root": str(tmp_path / "other"), "train_limit": None}
    run = farkas_exp.load(trained(tmp_path / "runs", dataset=own, epochs=1))
    with pytest.raises(UserError, match=r"evaluate it on the test set \(dataset.validation=0\)$"):
        run.evaluate("image_folder", root=str(tmp_path / "copy"), validation=0.5)


def test_a_run_that_failed_before_its_first_checkpoint_has_no_network(path, tmp_path):
    run = farkas_exp.load(trained(tmp_path, lr={"value": 1e30}, epochs=2))
    for ask in (run.evaluate, lambda: run.export("pt2")):
        with pytest.raises(UserError, match=r"^[^:]*: no network to load: .* ended before its first checkpoint"):
            ask()


def test_a_run_that_a_list_of_runs_has_told_apart_by_its_data(path, tmp_path):
    for seed, data in enumerate(("cats", "cars")):
        copy = tmp_path / path.parent.name / f"seed_{seed}"
        shutil.copytree(path, copy)
        write_json(copy / "run.json", sealed({**read_json(copy / "run.json"), "seed": seed, "data": {"files": data}}))
    first, _ = farkas_exp.runs(tmp_path)
    assert first.identity.endswith("+cars")
    assert farkas_exp.load(farkas_exp.runs(tmp_path, seed=0)[0]).classes == tuple(NAMES)


def test_images_are_taken_as_bytes_floats_arrays_files_and_pictures(path, tmp_path):
    run = farkas_exp.load(path)
    arrays = folder_of_digits(tmp_path)
    pixels = arrays.test_images[:2].permute(0, 3, 1, 2)
    expected = run.probabilities(pixels)
    assert torch.allclose(expected.sum(1), torch.ones(2))
    files = [tmp_path / "test" / NAMES[int(arrays.test_labels[i])] / f"{i}.png" for i in range(2)]
    with Image.open(files[0]) as picture:
        first = run.probabilities(picture)
    turned = pixels.numpy()[:, :, ::-1].copy()[:, :, ::-1]  # of negative strides
    turned.flags.writeable = False
    swapped = (pixels.numpy() / 255).astype(">f4")
    plain = (pixels.float() / 255, pixels.numpy(), turned, [str(file) for file in files], pixels.double() / 255)
    for given in (*plain, swapped):
        assert torch.allclose(run.probabilities(given), expected, atol=1e-6)
    assert torch.allclose(first, expected[:1], atol=1e-6)
    assert torch.allclose(run.probabilities(pixels[0]), expected[:1], atol=1e-6)
    assert run.predict(pixels[:0]).shape == (0,)
    run.network.train()  # in which batch norm and dropout would change the answer
    assert torch.equal(run.probabilities(pixels), expected)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("seven.png", r"cannot read the image 'seven.png' \(No such file or directory\)"),
        ([], "expected one tensor or array, files or PIL images, got none"),
        ([np.zeros((1, 8, 8))], "expected one tensor or array, files or PIL images, got ndarray"),
        (7, "expected one tensor or array, files or PIL images, got int"),
        (
            torch.zeros(1, 1, 8, 8, dtype=torch.int64),
            r"expected bytes \(uint8\), or floats in \[0, 1\], got torch.int64",
        ),
        (np.array([[[[None]]]]), r"expected bytes \(uint8\), or floats in \[0, 1\], got object"),
        (torch.zeros(2, 1, 8, 4), r"expected the shape \(N, 1, 8, 8\), got \(2, 1, 8, 4\)$"),
        (np.zeros((2, 8, 8, 1)), r"expected the shape \(N, 1, 8, 8\), got .*; its channels are last: permute"),
        (torch.full((1, 1, 8, 8), 255.0), r"expected floats in \[0, 1\], .*; got floats from 255 to 255"),
        (torch.full((1, 1, 8, 8), -0.5), r"expected floats in \[0, 1\], not standardized, .* from -0.5 to -0.5"),
        (torch.full((1, 1, 8, 8), torch.nan), r"expected floats in \[0, 1\], .* from nan to nan"),
    ],
)
def test_what_is_no_image_is_one_line(path, images, expected):
    with pytest.raises(UserError, match=f"^images: {expected}"):
        farkas_exp.load(path).predict(images)


def test_points_are_floats_of_any_size(tmp_path):
    points = {"name": "moons", "train_size": 40, "test_size": 20, "train_limit": None}
    run = farkas_exp.load(
        trained(
            tmp_path,
            model={"name": "mlp", "width": 4, "depth": 2, "blocks": None, "widths": None},
            dataset=points,
            augmentation={"crop_padding": 0, "flip": False, "cutout": 0},
            epochs=1,
        )
    )
    assert run.predict(torch.full((3, *run.preprocessing.shape), -7.0)).shape == (3,)
    with pytest.raises(UserError, match=r"^images: expected points of floats, got torch.uint8"):
        run.predict(torch.ones(3, *run.preprocessing.shape, dtype=torch.uint8))


def test_other_data_are_standardized_as_the_runs_own_and_their_classes_found_by_name(tmp_path):
    names = [f"class {(digit + 3) % 10}" for digit in range(10)]  # the folders are sorted otherwise
    folder_of_digits(tmp_path / "photographs", NAMES)
    folder_of_digits(tmp_path / "turned", names)
    own = {"name": "image_folder", "root": str(tmp_path / "photographs"), "train_limit": None, "normalize": True}
    run = farkas_exp.load(trained(tmp_path / "runs", dataset=own, epochs=1))
    info = run.info
    assert info.mean
    expected = run.evaluate()
    shutil.copytree(tmp_path / "photographs" / "test", tmp_path / "other" / "test")
    shutil.copytree(tmp_path / "photographs" / "test", tmp_path / "other" / "train")  # of another mean
    found = run.evaluate("image_folder", root=str(tmp_path / "other"), image_size=None)
    assert found["test_error"] == expected["test_error"]
    assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-5)
    run.info = DataInfo(**{**vars(info), "class_names": tuple(names)})
    found = run.evaluate("image_folder", root=str(tmp_path / "turned"))
    assert found["test_error"] == expected["test_error"]


def test_images_that_a_run_has_read_relative_to_another_folder_are_asked_for_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of_digits(tmp_path / "photographs")
    own = {"name": "image_folder", "root": "photographs", "train_limit": None}
    run = farkas_exp.load(trained(tmp_path / "runs", dataset=own, epochs=1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError) as raised:
        run.evaluate()
    assert str(raised.value) == (
        f"dataset.root: the run has read 'photographs', and '{tmp_path}/elsewhere/photographs' is no folder; give the"
        " command in the folder in which the run was trained, or name it: dataset.root=DIR"
    )
    assert run.evaluate(root="../photographs")["test_error"] == run.result["test_error"]
    with pytest.raises(UserError, match=f"^dataset.root: '{tmp_path}/elsewhere/x/photographs' is not a folder"):
        run.evaluate(root="x/photographs")


@pytest.mark.parametrize(("epochs", "size"), [(1, 8), (2, 16)])
def test_a_run_in_phases_is_evaluated_at_the_size_of_its_last_epoch(tmp_path, epochs, size):
    folder_of_digits(tmp_path / "digits")
    sizes = [
        {"until": until, "image_size": size, "batch_size": 20, "lr_from": 0.1, "lr_to": 0.01}
        for until, size in ((1, 8), (2, 16))
    ]
    run = farkas_exp.load(
        trained(
            tmp_path / "runs", epochs=epochs, batch_size=128, lr={"value": 0.01},
            phases={"name": "two", "schedule": sizes}, augmentation={"crop_padding": 0, "cutout": 0},
            dataset={
                "name": "streamed_folder", "root": str(tmp_path / "digits"), "train_limit": None, "workers": 0,
                "validation": 0.25,
            },
        )
    )  # fmt: skip
    found = run.evaluate()
    assert found == {name: run.result[name] for name in found}
    assert run.preprocessing.shape == (3, size, size)
    others = run.evaluate("streamed_folder", root=str(tmp_path / "digits"), workers=0)  # as large as the run's
    tested = run.evaluate(validation=0)
    assert others["test_error"] == tested["test_error"]
    files = sorted((tmp_path / "digits" / "test").rglob("*.png"))
    labels = torch.tensor([run.classes.index(file.parent.name) for file in files])
    shares = run.probabilities([str(file) for file in files])
    assert tested["test_error"] == pytest.approx(100 * float((shares.argmax(1) != labels).double().mean()))
    assert tested["test_loss"] == pytest.approx(
        float(-shares[torch.arange(len(labels)), labels].log().mean()), rel=1e-4
    )
    assert run.preprocessing.draft


def test_other_data_may_have_fewer_training_images_than_a_batch(path, tmp_path):
    run = farkas_exp.load(path)
    folder_of_digits(tmp_path / "few")
    expected = run.evaluate("image_folder", root=str(tmp_path / "few"))["test_error"]
    for name in NAMES:
        for file in sorted((tmp_path / "few" / "train" / name).iterdir())[1:]:
            file.unlink()
    for dataset in ("image_folder", "streamed_folder"):
        workers = {"workers": 0} if dataset == "streamed_folder" else {}
        assert run.evaluate(dataset, root=str(tmp_path / "few"), **workers)["test_error"] == pytest.approx(
            expected, abs=3
        )


def test_colour_images_fade_for_a_network_of_grey_ones(path, tmp_path):
    run = farkas_exp.load(path)
    folder_of_digits(tmp_path / "colours")
    found = run.evaluate("image_folder", root=str(tmp_path / "colours"))
    files = sorted((tmp_path / "colours" / "test").rglob("*.png"))
    shares = run.probabilities([str(file) for file in files])
    labels = torch.tensor([run.classes.index(file.parent.name) for file in files])
    assert found["test_error"] == pytest.approx(100 * float((shares.argmax(1) != labels).double().mean()))
    losses = -shares[torch.arange(len(labels)), labels].log()
    assert found["test_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_other_classes_and_other_shapes_are_refused_in_one_line(path, tmp_path):
    run = farkas_exp.load(path)
    folder_of_digits(tmp_path / "names", [f"n{name}" for name in NAMES])
    folder_of_digits(tmp_path / "colours")
    other = "dataset: names has 10 classes (n0, n1, n2, ...), and the run was trained on 10 classes (0, 1, 2, ...); "
    for options, expected in (
        ({"dataset": "image_folder", "root": str(tmp_path / "names")}, other),
        (
            {"dataset": "image_folder", "root": str(tmp_path / "colours"), "image_size": 4},
            "dataset: colours has images of the shape (3, 4, 4), and the network takes (1, 8, 8)",
        ),
        ({"dataset": "moons"}, "dataset: moons has 2 classes (upper, lower), and the run"),
        ({"dataset": "moon"}, "dataset.name: unknown 'moon'; did you mean 'moons'?"),
        ({"noise": 0.5}, "dataset.noise: 0.5 does nothing here"),
        ({"dataset": "image_folder"}, "dataset.root: missing"),
    ):
        with pytest.raises(UserError) as caught:
            run.evaluate(**options)
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)


def test_what_is_no_run_is_one_line(path, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, expected in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "no run directory; give the folder that holds run.json"),
        (path.parent, f"it holds the seeds of one experiment; give one of them, such as {path}"),
    ):
        with pytest.raises(UserError, match="^" + str(place)) as caught:
            farkas_exp.load(place)
        assert expected in str(caught.value)
    copy = tmp_path / "seed_0"
    shutil.copytree(path, copy)
    (copy / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"no network to load: the run is finished, and its checkpoint is damaged$"):
        farkas_exp.load(copy).evaluate()
    (copy / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match="no network to load: the run is finished, and its checkpoint was not kept"):
        farkas_exp.load(copy).evaluate()


def test_other_data_under_the_name_of_the_runs_own_are_refused(path, tmp_path):
    copy = tmp_path / "seed_0"
    shutil.copytree(path, copy)
    environment = read_json(copy / "environment.json")
    write_json(copy / "environment.json", {**environment, "data": environment["data"] | {"fingerprint": "other"}})
    with pytest.raises(UserError, match=r"^dataset: digits is not the data this run began with"):
        farkas_exp.load(copy).evaluate()


@pytest.mark.parametrize("spoiled", [{"mean": 0}, {"image_shape": [1, 8]}, {"classes": None}])
def test_a_damaged_description_of_the_data_is_one_line(spoiled, path, tmp_path):
    copy = tmp_path / "seed_0"
    shutil.copytree(path, copy)
    environment = read_json(copy / "environment.json")
    write_json(copy / "environment.json", {**environment, "data": environment["data"] | spoiled})
    with pytest.raises(UserError, match=f"^{copy / 'environment.json'}: damaged, what it says of the data"):
        farkas_exp.load(copy).evaluate()


def test_a_record_that_does_not_know_the_shape_of_its_images(path, tmp_path):
    copy = tmp_path / "seed_0"
    shutil.copytree(path, copy)
    environment = read_json(copy / "environment.json")
    for key in ("class_names", "image_shape", "mean", "std"):
        del environment["data"][key]
    write_json(copy / "environment.json", environment)
    old, new = farkas_exp.load(read_run(copy)), farkas_exp.load(path)
    assert old.preprocessing == new.preprocessing
    images = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    assert torch.equal(old.probabilities(images), new.probabilities(images))
