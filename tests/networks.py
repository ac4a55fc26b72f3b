"""Small networks, images for them, and what is counted of both."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.watching import watch_pre_activations
from farkas_exp.models.create import create_model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def build(name, seed=0, **options):
    torch.manual_seed(seed)
    return create_model(name, **options)


def images(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@contextmanager
def pretended_gpu(allow_non_fake_inputs: bool = False) -> Iterator[None]:
    """Tensors on a GPU that need none, as they hold no values."""
    with FakeTensorMode(allow_non_fake_inputs=allow_non_fake_inputs):
        try:
            torch.rand(1, device="cuda").uniform_()
        except RuntimeError:  # such as PyTorch 2.6
            pytest.skip("this PyTorch asks a real GPU for pretended random numbers")
        yield


def dead_points(model, batch) -> list[float]:
    """The fraction of samples (and positions) without an active unit, activation by activation, in train mode."""
    fractions: list[float] = []

    def count(activation, inputs):
        fractions.append(float((inputs[0].amax(1) <= activation.cutoff).double().mean()))

    handles = [m.register_forward_pre_hook(count) for m in model.modules() if isinstance(m, Activation)]
    with torch.no_grad(), plain_path():
        model(batch)
    for handle in handles:
        handle.remove()
    assert len(fractions) == sum(isinstance(m, Activation) for m in model.modules())
    return fractions


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SMALL = {
    "resnet18": {"blocks": [1, 1], "widths": [4, 8]},
    "farkasnet18": {"blocks": [1, 1], "widths": [4, 8]},
    "resnet50": {"blocks": [1, 1], "widths": [8, 16]},
    "farkasnet50": {"blocks": [1, 1], "widths": [8, 16]},
    "fixup34": {"blocks": [1, 1], "widths": [4, 8]},
    "resnet50_imagenet": {"blocks": [1, 1], "widths": [8, 16]},
    "farkasnet50_imagenet": {"blocks": [1, 1], "widths": [8, 16]},
    "mlp": {"depth": 3, "width": 5, "residual": True},
    "rect_conv": {"depth": 3, "width": 5, "residual": True},
    "allconv_residual": {"blocks": [1, 1], "widths": [4, 8]},
    "farkas_allconv_residual": {"blocks": [1, 1], "widths": [4, 8]},
    "linear_residual": {"depth": 2},
}


def with_multipliers(model: nn.Module, value: float, batch: torch.Tensor) -> list[float]:
    """Set every branch's multiplier; the least largest pre-activation of each activation."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("multiplier"):
                parameter.fill_(value)
        with watch_pre_activations(model) as seen:
            model(batch)
    return [float(z.amax(1).min()) for _, z in seen]
