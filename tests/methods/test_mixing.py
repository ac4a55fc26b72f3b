"""Mixup and cutmix: what a step is made with, and how the training error is called."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from farkas_exp.machine.errors import UserError
from farkas_exp.methods.mixing import Mixing
from farkas_exp.training.trainer import TrainerState
from tests.configs import config
from tests.trainers import made_trainer, trained

PHASE = {"until": 3, "image_size": 8, "batch_size": 8, "lr_from": 0.1, "lr_to": 0.01}
PHASED = {
    "dataset": {"name": "streamed_folder", "root": "pictures", "train_limit": None}, "lr": {"value": 0.01},
    "batch_size": 128, "phases": {"name": "own", "schedule": [PHASE | {"until": 1, "batch_size": 16}, PHASE]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_are_mixed_with_their_neighbours_and_labels_by_the_same_share(kind):
    (method,) = made_trainer(augmentation={kind: 1.0}).methods
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    mixed, shares = method.mix(images, labels)
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    neighbours = images.roll(1, 0)
    share = shares[0, 0].item()
    torch.testing.assert_close(shares, share * F.one_hot(labels, 10) + (1 - share) * F.one_hot(labels.roll(1), 10))
    if kind == "mixup":
        torch.testing.assert_close(mixed, share * images + (1 - share) * neighbours)
    else:
        own = mixed == images
        assert torch.equal(mixed[~own], neighbours[~own])
        assert own.float().mean().item() == pytest.approx(share, abs=1e-6)
    assert not torch.equal(method.mix(images, labels)[0], mixed), "drawn anew for each batch"


def papers_box(alpha, height, width, generator):
    """Top, left, height and width of the rectangle of Yun et al. 2019 (Equation 2 and Algorithm A1)."""
    cut = math.sqrt(1 - generator.beta(alpha, alpha))
    centre, half = generator.integers((height, width)), np.array([int(height * cut), int(width * cut)]) // 2
    first, end = (centre - half).clip(0), (centre + half).clip(max=(height, width))
    return (*first, *(end - first)) if (end > first).all() else (-1, -1, 0, 0)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_cutmix_cuts_the_rectangles_of_the_paper(alpha):
    (method,) = made_trainer(augmentation={"cutmix": alpha}).methods
    height, width, found = 8, 12, []
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, height, width)
    torch.manual_seed(0)
    for _ in range(800):
        other = method.mix(images, torch.arange(2))[0][0, 0] == 1
        rows, columns = other.any(1), other.any(0)
        top, left, high, wide = (
            int(rows.int().argmax()),
            int(columns.int().argmax()),
            int(rows.sum()),
            int(columns.sum()),
        )
        assert other[top : top + high, left : left + wide].sum() == other.sum() == high * wide
        found.append((top, left, high, wide) if high else (-1, -1, 0, 0))
    generator = np.random.default_rng(0)
    expected = [papers_box(alpha, height, width, generator) for _ in range(8000)]
    for ours, papers in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True):
        assert stats.ks_2samp(ours, papers).pvalue > 1e-3


@pytest.mark.parametrize(("kind", "most"), [("mixup", 0.6), ("cutmix", 1.0)])  # a rectangle may end at the border
def test_a_large_alpha_takes_half_of_each_image(kind, most):
    (method,) = made_trainer(augmentation={kind: 100.0}).methods
    torch.manual_seed(0)
    shares = [method.mix(torch.rand(2, 1, 8, 8), torch.arange(2))[1][0, 0].item() for _ in range(20)]
    assert min(shares) > 0.4
    assert max(shares) < most
    assert not list(made_trainer().methods), "only for those who ask for it"


def test_the_training_error_is_called_one_of_mixed_images_and_counts_the_larger_share():
    trainer, seen = made_trainer(augmentation={"mixup": 0.5, "cutmix": 1.0}, label_smoothing=0.1), []
    mix = trainer.methods[0].mix
    trainer.methods[0].mix = lambda images, labels: seen.append(mix(images, labels)) or seen[-1]
    state = TrainerState()
    for group in trainer.optimizer.param_groups:
        group["lr_scale"] = 0.0
    trained(trainer, state)
    with torch.no_grad():
        logits = torch.cat([trainer.model(images) for images, _ in seen])
    shares = torch.cat([each for _, each in seen])
    row = trainer.finish_epoch(state)
    assert row["train_loss"] == pytest.approx(F.cross_entropy(logits, shares, label_smoothing=0.1).item(), rel=1e-4)
    assert row["train_error_mixed"] == pytest.approx(100 * (logits.argmax(1) != shares.argmax(1)).float().mean().item())
    assert "train_error" not in row
    assert row["test_error"] >= 0


@pytest.mark.parametrize("alpha", [1e-3, 1e4])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_distribution_that_cannot_be_drawn_from_is_refused(kind, alpha):
    with pytest.raises(UserError, match=rf"^augmentation\.{kind}: {alpha} is out of range; it must be "):
        config(augmentation={kind: alpha})
    assert config(augmentation={kind: 0.01}).augmentation


@pytest.mark.parametrize(("batch", "processes"), [({"batch_size": 4}, 4), (PHASED, 8)])
def test_an_image_is_not_mixed_with_itself(batch, processes):
    made = config(**batch, augmentation={"crop_padding": 0, "flip": False, "cutout": 0, "cutmix": 1.0})
    Mixing.refuses(made, processes // 2)
    with pytest.raises(UserError, match=r"^augmentation.cutmix: a batch of 1 image a process has none to mix it with"):
        Mixing.refuses(made, processes)
