"""Gradient clipping, by the norm and by units, against its formulas and in the trainer's step."""

import pytest
import torch
from torch import nn

from farkas_exp.methods.clipping import clip_units, unit_norms
from farkas_exp.models.create import create_model
from farkas_exp.training.trainer import TrainerState
from tests.trainers import made_trainer, trained


def parameter(*shape: int, seed: int, size: float) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Parameter(torch.randn(*shape, generator=generator).double())
    made.grad = size * torch.randn(*shape, generator=generator).double()
    return made


def test_each_units_gradient_is_at_most_its_share_of_the_units_weight():
    weight, bias = parameter(5, 3, 2, 2, seed=0, size=1.0), parameter(7, seed=1, size=1.0)
    with torch.no_grad():
        weight[0] = 0  # counts as 1e-3, so that it can leave zero
        weight.grad[1] *= 1e-4  # short enough
    before, of_bias, kept = weight.grad.clone(), bias.grad.clone(), parameter(2, seed=2, size=0.0)
    kept.grad = None
    clip_units([weight, bias, kept], 0.1)
    rows, was = weight.grad.flatten(1).norm(dim=1), before.flatten(1).norm(dim=1)
    allowed = 0.1 * weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(rows[2:], allowed[2:])
    assert rows[0].item() == pytest.approx(1e-4)
    torch.testing.assert_close(weight.grad[1], before[1], rtol=0, atol=0)
    torch.testing.assert_close(weight.grad / rows.view(-1, 1, 1, 1), before / was.view(-1, 1, 1, 1))  # its direction
    torch.testing.assert_close(bias.grad, of_bias * 0.1 * bias.detach().norm() / of_bias.norm())
    assert unit_norms(torch.tensor(-2.0)) == 2


def test_it_is_timms():
    timm = pytest.importorskip("timm.utils.agc")
    ours, theirs = ([parameter(4, 3, seed=0, size=9.0), parameter(4, seed=1, size=9.0)] for _ in range(2))
    clip_units(ours, 0.01)
    timm.adaptive_clip_grad(theirs, 0.01)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def moved(**optimizer: float) -> dict[str, float]:
    """How far each parameter goes in one step of plain gradient descent with the rate 1."""
    trainer = made_trainer(optimizer={"momentum": 0.0, "weight_decay": 0.0, **optimizer}, lr={"value": 1.0})
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trained(trainer, TrainerState(), pause=lambda: True)
    return {name: (value.detach() - before[name]).norm().item() for name, value in trainer.model.named_parameters()}


def test_the_step_is_made_with_the_clipped_gradient():
    free, by_norm, by_units = moved(), moved(clip_norm=1e-3), moved(clip_units=1e-6)
    length = sum(value**2 for value in free.values()) ** 0.5
    assert length > 1e-2
    assert by_norm == pytest.approx({name: value * 1e-3 / length for name, value in free.items()}, rel=1e-3, abs=1e-7)
    hidden = {name: value for name, value in by_units.items() if not name.startswith("classifier")}
    assert max(hidden.values()) < 1e-4 < min(free.values())
    assert {name: by_units[name] for name in by_units if name not in hidden} == pytest.approx(
        {name: free[name] for name in by_units if name not in hidden}
    )


def test_of_a_farkas_layer_the_free_rows_are_the_units():
    torch.manual_seed(0)
    layer = create_model("farkas_mlp", in_channels=1, image_size=2, depth=1, width=4).hidden[0].layer
    (10 * layer(torch.randn(8, 4)).square().sum()).backward()
    clip_units(layer.parameters(), 0.01)
    torch.testing.assert_close(layer.weight.grad.norm(dim=1), 0.01 * layer.weight.detach().norm(dim=1))
    assert layer.weight.shape[0] == 3
