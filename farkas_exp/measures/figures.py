"""The measurements that `diagnostics.measures` may name: figures of a network on fixed images.

`catalogue` names the functions. Except `robustness`, which attacks the test set, all work on training images.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.config import Config
from farkas_exp.data.base import ImageData
from farkas_exp.layers.paths import single_precision
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.measures.activity import dead_samples, measure_activity
from farkas_exp.measures.hessian import hessian_extremes, loss_and_gradient_norm, parameter_distance, parameter_norm
from farkas_exp.measures.ntk import kernel_change, kernel_correlation, tangent_kernel
from farkas_exp.measures.plane import plane_figures
from farkas_exp.measures.spectrum import effective_ranks
from farkas_exp.methods.adversarial import check_pixels, robust_errors
from farkas_exp.registry import DATASETS, MEASURES
from farkas_exp.runs.measurements import check_asked


@dataclass(frozen=True)
class Subject:
    """What to measure: the network, its data, and a function that builds it as it was before training."""

    config: Config
    model: nn.Module
    data: ImageData
    initial: Callable[[], nn.Module]

    def batch(self) -> tuple[Tensor, Tensor]:
        """The first `diagnostics.images` training images and labels of a fixed order."""
        return self.data.fixed_batch(self.config.diagnostics.images)


def activity(subject: Subject) -> dict[str, Any]:
    """Dead units and points, and margins, layer by layer; the share of dead samples."""
    images, _ = subject.batch()
    layers = [vars(layer) for layer in measure_activity(subject.model, images)]
    return {"layers": layers, "dead_samples": dead_samples(subject.model, images)}


def gradient(subject: Subject) -> dict[str, Any]:
    """The loss, and the norm of its gradient."""
    loss, norm = loss_and_gradient_norm(subject.model, *subject.batch())
    return {"loss": loss, "grad_norm": norm}


def hessian(subject: Subject) -> dict[str, Any]:
    """The extreme eigenvalues of the loss's Hessian."""
    steps, seed = subject.config.diagnostics.lanczos_steps, derive_seed(subject.config.seed, "lanczos")
    smallest, largest = hessian_extremes(subject.model, *subject.batch(), steps=steps, seed=seed)
    return {"hessian_min": smallest, "hessian_max": largest}


def norm(subject: Subject) -> dict[str, Any]:
    """The norm of the parameters."""
    return {"param_norm": parameter_norm(subject.model)}


def kernel(subject: Subject) -> dict[str, Any]:
    """How far the tangent kernel and the parameters have moved since initialization."""
    images, _ = subject.data.fixed_batch(subject.config.diagnostics.ntk_images)
    initial = subject.initial()
    before, after = tangent_kernel(initial, images), tangent_kernel(subject.model, images)
    return {
        "param_change": parameter_distance(initial, subject.model),
        "ntk_correlation": kernel_correlation(before, after),
        "ntk_relative": kernel_change(before, after),
        "ntk_norm": float(after.double().norm()),
    }


def rank(subject: Subject) -> dict[str, Any]:
    """The effective ranks of the layers."""
    return {"effective_rank": effective_ranks(subject.model, subject.batch()[0][:2])}


def plane(subject: Subject) -> dict[str, Any]:
    """How the network sees the plane."""
    return {"plane": plane_figures(subject.model, *subject.batch())}


def robustness(subject: Subject) -> dict[str, Any]:
    """The test errors under attack."""
    return {"robust_error": robust_errors(subject.model, subject.data, subject.config.seed)}


def check_measures(config: Config, world_size: int = 1) -> None:
    """Check the requested measurements, before the run begins."""
    check_asked(config.diagnostics)
    for name in config.diagnostics.measures:
        entry = MEASURES[name]
        if entry.plane and DATASETS[config.dataset.name].pixels:
            raise UserError(f"diagnostics.measures: {name} is for points of the plane; use dataset=moons")
        if entry.pixels:
            check_pixels(config, f"diagnostics.measures: {name}")
        if entry.whole_set and world_size > 1:
            raise UserError(f"diagnostics.measures: {name} works on the whole test set, so it is for one process")


def measure(subject: Subject, names: Iterable[str]) -> dict[str, Any]:
    """The figures of the named measurements, without TF32; the training's random stream is not touched."""
    figures: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]), single_precision():
        for name in names:
            figures |= MEASURES[name].build(subject)
    return figures
