"""The measurements that `diagnostics.measures` names: what each is of, and that it leaves the training alone."""

import math
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import nn

from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.layers.paths import fused_allowed, single_precision
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.measures.activity import dead_samples, measure_activity
from farkas_exp.measures.figures import Subject, check_measures, measure
from farkas_exp.measures.hessian import hessian_extremes, loss_and_gradient_norm, parameter_norm
from farkas_exp.measures.ntk import kernel_change, kernel_correlation, tangent_kernel
from farkas_exp.measures.spectrum import effective_ranks
from farkas_exp.methods.base import execution_mode
from farkas_exp.models.create import create_model
from farkas_exp.registry import DATASETS, MEASURES, Measure
from tests.configs import config

DIAGNOSTICS = {"epochs": [0], "images": 5, "ntk_images": 3, "lanczos_steps": 4}


@dataclass
class Fixed:
    """Training images and labels, of which as many are given as are asked for."""

    images: torch.Tensor = field(default_factory=lambda: torch.rand(9, 1, 4, 4))
    labels: torch.Tensor = field(default_factory=lambda: torch.arange(9) % 3)

    def fixed_batch(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[:n], self.labels[:n]


def network() -> nn.Module:
    return create_model("mlp", 3, in_channels=1, image_size=4, depth=4, width=4)


def test_each_figure_is_that_of_the_network_on_as_many_images_as_are_asked_for(monkeypatch):
    torch.manual_seed(0)
    data: Any = Fixed()
    model, initial = network(), network()
    with torch.no_grad():
        model.classifier.weight.mul_(3)  # the kernel's norm tells before from after
    five, three = data.fixed_batch(5), data.fixed_batch(3)[0]
    subject = Subject(config(seed=6, diagnostics=DIAGNOSTICS), model, data, lambda: initial)
    found = measure(subject, ["activity", "grad_norm", "hessian", "ntk", "param_norm", "rank"])
    assert found["layers"] == [vars(layer) for layer in measure_activity(model, five[0])]
    assert 0 < found["dead_samples"] == dead_samples(model, five[0]) != dead_samples(model, five[0][:2])
    assert (found["loss"], found["grad_norm"]) == loss_and_gradient_norm(model, *five)
    extremes = hessian_extremes(model, *five, steps=4, seed=derive_seed(6, "lanczos"))
    assert (found["hessian_min"], found["hessian_max"]) == extremes
    before, after = tangent_kernel(initial, three), tangent_kernel(model, three)
    assert found["ntk_correlation"] == kernel_correlation(before, after)
    assert found["ntk_relative"] == kernel_change(before, after)
    assert found["ntk_norm"] == pytest.approx(float(after.norm()))
    moved = [
        float((b - a).detach().square().sum()) for a, b in zip(initial.parameters(), model.parameters(), strict=True)
    ]
    assert found["param_change"] == pytest.approx(sum(moved) ** 0.5)
    assert found["param_norm"] == parameter_norm(model)
    assert found["effective_rank"] == effective_ranks(model, five[0])
    monkeypatch.setattr("farkas_exp.measures.figures.robust_errors", lambda *given: given)
    assert measure(subject, ["robustness"]) == {"robust_error": (model, data, 6)}


def allowed_tf32() -> tuple[bool, bool]:
    cudnn: Any = torch.backends.cudnn
    return cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def everything(model: nn.Module) -> dict[str, Any]:
    """What a measurement might leave behind: on the network, and in the process."""
    return {
        "state": {name: value.tolist() for name, value in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "trained": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "own": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "process": (fused_allowed(), torch.is_grad_enabled(), allowed_tf32()),
    }


def subject(name: str, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A small network with batch norm, and data of the kind that the measurement asks for."""
    monkeypatch.setattr("farkas_exp.methods.adversarial.ROBUST_STEPS", 1)
    torch.manual_seed(0)
    model: nn.Module
    if MEASURES[name].plane:
        points = {"name": "moons", "train_limit": None}
        plain = {"crop_padding": 0, "cutout": 0, "flip": False}
        made = config(diagnostics=DIAGNOSTICS, dataset=points, augmentation=plain)
        model = create_model("mlp", 2, in_channels=2, image_size=1, depth=2, width=4, normalization="batch")
    else:
        made = config(diagnostics=DIAGNOSTICS)
        norm = {"name": "batch", "position": "after"}
        model = create_model(
            "farkasnet18", 10, in_channels=1, image_size=8, blocks=(1,), widths=(4,), normalization=norm
        )
    data = build_data(made.dataset, made.augmentation, Batching(40, 0))
    other = create_model("mlp", 10, in_channels=1, image_size=8)
    return Subject(made, model, data, lambda: model if name == "ntk" else other)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_measurement_leaves_the_network_and_the_random_numbers_as_they_were(name, monkeypatch):
    measured = subject(name, monkeypatch)
    model = measured.model
    images, labels = measured.data.fixed_batch(8)
    nn.functional.cross_entropy(model(images), labels).backward()  # the gradients of a step under way
    next(iter(model.parameters())).requires_grad_(False)
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)).eval()
    before = everything(model)
    measure(measured, [name])
    after = everything(model)
    for key, value in before.items():
        assert after[key] == value, key


def test_points_of_any_data_set_are_of_the_plane_and_are_not_attacked(monkeypatch):
    assert list(DATASETS), "the package's own are there"
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    DATASETS.register("stars", "my.stars:load", pixels=False, classes=2)

    def check(measure: str, **more: Any) -> None:
        check_measures(config(diagnostics={"epochs": [0], "measures": [measure]}, **more))

    stars: Any = {"dataset": {"name": "stars"}, "augmentation": {"crop_padding": 0, "cutout": 0, "flip": False}}
    check("plane", **stars)
    with pytest.raises(UserError, match=r"plane is for points of the plane; use dataset=moons$"):
        check("plane")
    with pytest.raises(UserError, match=r"robustness attacks pixels in \[0, 1\], not the points of dataset=stars$"):
        check("robustness", **stars)
    with pytest.raises(UserError, match=r"^attack.name: pgd attacks .* not the points of dataset=stars$"):
        execution_mode(config(**stars, attack={"name": "pgd"}), "none")


def numbers(found: Any) -> list[float]:
    """All numbers among nested figures, but for those of the data and sizes."""
    if isinstance(found, dict):
        given = ("name", "units", "points", "labels", "extent")
        return [n for key, each in found.items() if key not in given for n in numbers(each)]
    return [n for each in found for n in numbers(each)] if isinstance(found, list | tuple) else [found]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"robustness"}))
def test_the_figures_of_a_network_that_has_diverged_are_not_numbers(name, value, monkeypatch):
    measured = subject(name, monkeypatch)
    with torch.no_grad():
        for parameter in measured.model.parameters():
            parameter.fill_(value)
    found = numbers(measure(measured, [name]))
    assert found
    assert not any(map(math.isfinite, found))


def test_a_measurement_that_draws_is_apart_from_the_trainings_random_numbers(monkeypatch):
    drawing = Measure(name="drawn", source=lambda subject: {"drawn": float(torch.rand(())), "tf32": allowed_tf32()})
    monkeypatch.setitem(MEASURES._entries, "drawn", drawing)
    state, subject = torch.get_rng_state(), cast(Any, None)
    with single_precision(tf32=True):
        found = measure(subject, ["drawn"])
        assert allowed_tf32() == (True, True)
    assert 0 <= found["drawn"] < 1
    assert found["tf32"] == (False, False), "in full single precision"
    assert torch.equal(torch.get_rng_state(), state)
