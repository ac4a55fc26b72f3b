"""Projected gradient attacks within an l-infinity ball (Madry et al. 2018), for training and for robust accuracy."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farkas_exp.config import Config
from farkas_exp.data.base import ImageData
from farkas_exp.layers.paths import in_mode
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.methods.base import Method
from farkas_exp.registry import DATASETS

ROBUST_STEPS = 20
ROBUST_TESTS = {"8/255": (8 / 255, 2 / 255), "1/255": (1 / 255, 0.25 / 255)}
"""Radius and step size of the 20-step attacks for robust accuracy ("Truth or backpropaganda?", Table 4)."""


def pgd(
    forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, steps: int, step_size: float,
    epsilon: float, start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Move each image along the sign of the loss's gradient, staying within `epsilon` of it and within [0, 1].

    Args:
        forward: the network.
        images: (N, C, H, W), in [0, 1].
        labels: (N,).
        steps: number of moves.
        step_size: length of a move in every pixel.
        epsilon: radius of the l-infinity ball.
        start: offsets of the first point, of the images' shape; None starts at the images.

    Returns:
        The attacked images, detached.
    """
    low, high = (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)
    attacked = images.detach() if start is None else (images + start).clamp(low, high)
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(forward(attacked).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, attacked)
        attacked = (attacked.detach() + step_size * gradient.sign()).clamp(low, high)
    return attacked.detach()


class AdversarialTraining(Method):
    """Attacks each batch through the network in evaluation mode, so that the attack leaves its statistics alone."""

    @classmethod
    def refuses(cls, config: Config, world_size: int) -> None:
        check_pixels(config, f"attack.name: {config.attack.name}")

    def prepare(self, images: Tensor, labels: Tensor) -> Tensor:
        """The attacked images; the random start comes from the training's generator, which checkpoints keep."""
        own, start = self.config.attack, None
        self.training.share()
        if own.random_start:
            start = torch.empty_like(images).uniform_(-own.epsilon, own.epsilon)
        with in_mode(self.model, training=False):
            return pgd(
                self.training.forward, images, labels, steps=own.steps, step_size=own.step_size, epsilon=own.epsilon,
                start=start,
            )  # fmt: skip


def check_pixels(config: Config, what: str) -> None:
    """Check that an attack works on pixels in [0, 1]."""
    if config.dataset.normalize or not DATASETS[config.dataset.name].pixels:
        why = "dataset.normalize=true" if config.dataset.normalize else f"the points of dataset={config.dataset.name}"
        raise UserError(f"{what} attacks pixels in [0, 1], not {why}")


def robust_errors(model: nn.Module, data: ImageData, seed: int) -> dict[str, float]:
    """The error on the test set in percent under each attack of `ROBUST_TESTS`, from starts that `seed` draws."""
    errors = {}
    with in_mode(model, training=False):
        for name, (epsilon, step_size) in ROBUST_TESTS.items():
            generator = torch.Generator().manual_seed(derive_seed(seed, "robust", name))
            wrong = total = 0
            for images, labels in data.test_batches():
                start = torch.empty(images.shape).uniform_(-epsilon, epsilon, generator=generator).to(images.device)
                attacked = pgd(
                    model, images, labels, steps=ROBUST_STEPS, step_size=step_size, epsilon=epsilon, start=start
                )
                with torch.no_grad():
                    wrong += int((model(attacked).argmax(1) != labels).sum())
                total += len(labels)
            errors[name] = 100 * wrong / total
    return errors
