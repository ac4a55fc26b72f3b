from typing import Any

import pytest
import torch
from torch.nn import functional as F

from farkas_exp import runs
from farkas_exp.config.schema import AttackConfig, AugmentationConfig, DatasetConfig
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.launch import execution
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.figures import check_measures
from farkas_exp.methods.adversarial import ROBUST_TESTS, pgd, robust_errors
from farkas_exp.methods.base import Training, build_methods, execution_mode
from farkas_exp.models.create import create_model
from farkas_exp.runs import open_run, read_rows
from tests.configs import config


def network(name="farkasnet34"):
    torch.manual_seed(0)
    return create_model(name, 10, in_channels=1, image_size=8, blocks=(1,), widths=(8,), normalization="batch").eval()


@pytest.mark.parametrize("name", ["resnet34", "farkasnet34"])
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_stays_in_its_ball_and_among_pixels_and_raises_the_loss(name, random_start):
    model = network(name)
    images, labels = torch.rand(16, 1, 8, 8).round(decimals=1), torch.randint(10, (16,))
    epsilon = 8 / 255
    start = torch.empty_like(images).uniform_(-epsilon, epsilon) if random_start else None
    attacked = pgd(model, images, labels, steps=7, step_size=2 / 255, epsilon=epsilon, start=start)
    assert float((attacked - images).abs().max()) <= epsilon + 1e-6
    assert float((attacked - images).abs().max()) > 0.9 * epsilon
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    assert not attacked.requires_grad
    with torch.no_grad():
        before = F.cross_entropy(model(images), labels, reduction="none")
        after = F.cross_entropy(model(attacked), labels, reduction="none")
    assert float((after > before).float().mean()) > 0.9
    assert all(p.grad is None for p in model.parameters())


def test_one_step_goes_along_the_sign_of_the_gradient():
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    images = torch.full((1, 2, 1, 1), 0.5)
    attacked = pgd(
        lambda x: F.linear(x.flatten(1), weight), images, torch.tensor([0]), steps=1, step_size=0.1, epsilon=0.05
    )
    assert attacked.flatten().tolist() == pytest.approx([0.45, 0.55])  # lowers the first logit, and is projected


Nothing: Any = None
"""Of what a method does not look at."""


def test_the_attack_of_training_leaves_batch_norms_statistics_and_the_mode_alone():
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = config(attack={"name": "pgd", "steps": 2})
    (attack,) = build_methods(Training(made, model, Nothing, model))
    attack.prepare(torch.rand(4, 1, 8, 8), torch.randint(10, (4,)))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert build_methods(Training(config(), model, Nothing, model)) == []


@pytest.mark.parametrize("random_start", [True, False])
def test_the_attack_of_training_is_that_of_the_configuration(monkeypatch, random_start):
    asked, given, shared = {"steps": 3, "step_size": 0.01, "epsilon": 0.05}, [], []

    def attack(forward, images, labels, *, start, **how):
        given.append((forward, model.training, start, how))
        return images

    monkeypatch.setattr("farkas_exp.methods.adversarial.pgd", attack)
    model = network().train()
    made = config(attack={"name": "pgd", "random_start": random_start, **asked})
    training = Training(made, model, Nothing, lambda images: images, share=lambda: shared.append(model.training))
    (method,) = build_methods(training)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        method.prepare(torch.rand(4, 1, 8, 8), torch.arange(4))
    assert shared == [True] * 3, "running statistics are shared before each attack"
    assert all(each[:2] == (training.forward, False) and each[3] == asked for each in given)
    if random_start:
        first, again, other = (start for _, _, start, _ in given)
        assert -0.05 <= float(first.min()) < -0.045 < 0.045 < float(first.max()) <= 0.05
        assert torch.equal(first, again), "drawn by the training's generator"
        assert not torch.equal(first, other)
    else:
        assert all(start is None for _, _, start, _ in given)


def test_the_robust_error_is_the_share_of_all_test_images_in_evaluation_mode(monkeypatch):
    monkeypatch.setattr("farkas_exp.methods.adversarial.pgd", lambda forward, images, labels, **how: images)
    data = build_data(DatasetConfig("digits"), AugmentationConfig(0, False, 0), Batching(100, 0))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(64, 10))
    images, labels = (torch.cat(parts) for parts in zip(*data.test_batches(), strict=True))
    wrong = (model[2](images.flatten(1)).argmax(1) != labels).sum()
    assert 0 < wrong < len(labels) == 360, "the last batch is a smaller one"
    assert robust_errors(model, data, seed=0) == dict.fromkeys(ROBUST_TESTS, 100 * int(wrong) / 360)
    assert model.training


def test_robust_error_is_at_least_the_clean_one_and_grows_with_the_radius():
    dataset, augmentation = DatasetConfig("digits"), AugmentationConfig(0, False, 0)
    data = build_data(dataset, augmentation, Batching(40, 0))
    torch.manual_seed(0)
    model = create_model("mlp", 10, in_channels=1, image_size=8, depth=1, width=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(4):
        for images, labels in data.train_batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    wrong = sum(int((model(images).argmax(1) != labels).sum()) for images, labels in data.test_batches())
    clean = 100 * wrong / data.info.test_size
    errors = robust_errors(model, data, seed=0)
    assert list(errors) == list(ROBUST_TESTS)
    assert clean <= errors["1/255"] < errors["8/255"]
    assert clean < 20
    assert errors == robust_errors(model, data, seed=0)


def test_the_random_starts_come_from_the_seed_of_the_run_and_the_attack_alone(monkeypatch):
    assert ROBUST_TESTS == {"8/255": (8 / 255, 2 / 255), "1/255": (1 / 255, 1 / 1020)}, "the paper's Table 4"
    data = build_data(DatasetConfig("digits"), AugmentationConfig(0, False, 0), Batching(1000, 0))
    starts = []

    def attack(forward, images, labels, *, start, **how):
        starts.append((start, how))
        return images

    monkeypatch.setattr("farkas_exp.methods.adversarial.pgd", attack)
    for seed, other in ((1, 0), (1, 5), (2, 5)):
        torch.manual_seed(other)
        robust_errors(network(), data, seed)
    drawn = [starts[i : i + 2] for i in range(0, len(starts), 2)]
    assert len(drawn) == 3, "one batch for each attack"
    for (start, how), (epsilon, step_size) in zip(drawn[0], ROBUST_TESTS.values(), strict=True):
        assert how == {"steps": 20, "step_size": step_size, "epsilon": epsilon}
        assert 0.9 * epsilon < float(start.abs().max()) <= epsilon
        assert float(start.min()) < 0 < float(start.max())
    (eight, _), (one, _) = drawn[0]
    assert not torch.allclose(eight / 8, one), "each attack has its own"
    assert all(torch.equal(a[0], b[0]) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(drawn[0], drawn[2], strict=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"attack": {"name": "pgd"}, "dataset": {"normalize": True}}, "not dataset.normalize=true"),
        ({"attack": {"name": "pgd"}, "dataset": {"name": "moons", "train_limit": None},
         "augmentation": {"crop_padding": 0, "flip": False, "cutout": 0}}, "not the points of dataset=moons"),
    ],
)  # fmt: skip
def test_what_cannot_be_attacked_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        execution_mode(config(**overrides), "none")


def test_the_presets_sizes_are_madrys():
    assert (AttackConfig().steps, AttackConfig().step_size, AttackConfig().epsilon) == (7, 2 / 255, 8 / 255)


SMALL = {"epochs": 2, "model": {"name": "farkasnet34", "blocks": [1], "widths": [4]}, "normalization": {"name": "none"}}


def metrics(made):
    outcome = execution.execute(made)
    assert outcome.status == runs.FINISHED, outcome.note
    return read_rows(open_run(made).metrics)


def test_every_method_changes_the_training_and_repeats_itself(tmp_path):
    plain = metrics(config(tmp_path / "plain", **SMALL))
    methods = {
        "sep": {"regularizer": {"name": "sep_up", "strength": 0.01}},
        "norm": {"regularizer": {"name": "norm_bias", "strength": 0.01, "norm_squared": 100.0}},
        "dropout": {"dropout": {"rate": 0.5}},
        "attack": {"attack": {"name": "pgd", "steps": 1}},
        "rank": {"callback": {"name": "rank_max", "threshold": 0.3}},
    }
    for name, override in methods.items():
        first = metrics(config(tmp_path / f"{name}1", **SMALL, **override))
        second = metrics(config(tmp_path / f"{name}2", **SMALL, **override))
        assert first[-1]["test_loss"] == second[-1]["test_loss"], name
        assert first[-1]["test_loss"] != plain[-1]["test_loss"], name


def test_every_measure_is_written_and_farkas_layers_have_no_dead_points(tmp_path):
    measures = ["grad_norm", "hessian", "ntk", "param_norm", "rank", "robustness"]
    diagnostics = {"epochs": [0, 2], "images": 8, "measures": measures, "lanczos_steps": 5, "ntk_images": 2}
    made = config(tmp_path, **SMALL, diagnostics=diagnostics)
    plain = metrics(config(tmp_path / "plain", **SMALL))
    rows = metrics(made)
    assert rows[-1]["test_loss"] == plain[-1]["test_loss"]  # measuring changes nothing
    first, last = read_rows(open_run(made).diagnostics)
    assert first["ntk_correlation"] == pytest.approx(1)
    assert first["ntk_relative"] == pytest.approx(0, abs=1e-5)
    assert last["ntk_relative"] > 0.01
    assert last["hessian_min"] < last["hessian_max"]
    assert min(last["grad_norm"], last["param_norm"]) > 0
    assert len(last["effective_rank"]) == 4
    assert set(last["robust_error"]) == {"8/255", "1/255"}
    assert first["dead_samples"] == last["dead_samples"] == 0
    assert all(layer["dead_points"] == 0 for layer in last["layers"])


def test_a_measure_of_the_whole_test_set_is_for_one_process():
    asked = config(diagnostics={"measures": ["grad_norm", "robustness"], "epochs": [0]})
    check_measures(asked)
    with pytest.raises(UserError, match=r"diagnostics.measures: robustness works on the whole test set"):
        check_measures(asked, world_size=2)
    check_measures(config(diagnostics={"measures": ["grad_norm"], "epochs": [0]}), world_size=2)
