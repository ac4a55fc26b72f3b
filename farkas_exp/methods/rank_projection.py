"""RankMin and RankMax: clip singular values after an epoch ("Truth or backpropaganda?", A.7).

A convolution with circular padding is diagonal over frequencies: its singular values are those of the (C_out, C_in)
matrices of the kernel's Fourier transform at each frequency of the map (Sedghi et al. 2018). As there, zero padding
counts as circular and strides are ignored; a kernel larger than the map is taken on a map of its own size.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from farkas_exp.config import Config
from farkas_exp.initialization.lsuv import watching
from farkas_exp.initialization.random import weight_layers
from farkas_exp.layers.paths import in_mode, plain_path
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import Method, Training


def frequencies(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The (C_out, C_in) matrix of a convolution at each frequency of maps of `size`, (H, W, C_out, C_in)."""
    return torch.fft.fft2(weight, s=size).permute(2, 3, 0, 1)


@torch.no_grad()
def map_sizes(model: nn.Module, images: Tensor) -> dict[nn.Module, tuple[int, int]]:
    """The size of the maps of each weight layer, (1, 1) for a linear one, in the order of computation."""
    sizes: dict[nn.Module, tuple[int, int]] = {}

    def see(layer: nn.Module, output: Tensor) -> None:
        weight = layer.get_parameter("weight")
        if weight.dim() == 2:
            sizes[layer] = (1, 1)
            return
        stride = getattr(layer, "stride", 1)
        strides = (stride, stride) if isinstance(stride, int) else stride
        extent = zip(output.shape[2:], strides, weight.shape[2:], strict=True)
        height, width = (max(length * step, kernel) for length, step, kernel in extent)
        sizes[layer] = (height, width)

    with watching(list(weight_layers(model)), see), plain_path(), in_mode(model, training=False):
        model(images)
    return sizes


PROJECTIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "rank_min": lambda values, threshold: values.masked_fill(values < threshold, 0),
    "rank_max": lambda values, threshold: values.clamp(max=threshold),
}
"""What happens to the singular values, by the name of the callback: those below the threshold become zero, or those
above it are lowered to it, and so become more equal."""


def project_weight(weight: Tensor, size: tuple[int, int], change: Callable[[Tensor], Tensor]) -> Tensor:
    """The weight, (out, in) or (C_out, C_in, k_h, k_w), with its singular values changed by a function.

    A convolution on maps of `size` is cropped to its kernel size, as in Sedghi et al. A weight that has diverged has no
    singular values and stays as it is.
    """
    matrices = weight if weight.dim() == 2 else frequencies(weight, size)
    if not matrices.isfinite().all():
        return weight
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    changed = (left * change(values)[..., None, :]) @ right
    if weight.dim() == 2:
        return changed
    whole = torch.fft.ifft2(changed.permute(2, 3, 0, 1)).real
    return whole[..., : weight.shape[2], : weight.shape[3]].to(weight.dtype)


@torch.no_grad()
def project_ranks(model: nn.Module, images: Tensor, name: str, threshold: float) -> None:
    """Apply RankMin or RankMax to every weight, in place; of a Farkas layer to its free rows.

    The aggregated row of a Farkas layer follows, so the layer keeps its guarantee.
    """
    change = PROJECTIONS[name]
    for layer, size in map_sizes(model, images).items():
        weight = layer.get_parameter("weight")
        weight.copy_(project_weight(weight, size, lambda values: change(values, threshold)))


def is_due(config: Config, epoch: int) -> bool:
    """Whether the weights are projected after `epoch` (from 0)."""
    own, left = config.callback, config.epochs - epoch
    return own.healing_epochs < left <= own.last_epochs and (own.last_epochs - left) % own.every_epochs == 0


class RankProjection(Method):
    """Projects the weights after due epochs."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.images = training.data.fixed_batch(2)[0]  # for the sizes of the maps only

    @classmethod
    def refuses(cls, config: Config, world_size: int) -> None:
        if config.weight.name != "none":
            raise UserError(
                f"callback.name: {config.callback.name} cuts singular values that weight={config.weight.name} changes"
                " again; use weight=none"
            )
        if config.optimizer.ema:
            raise UserError(
                f"callback.name: {config.callback.name} cuts the weights, and not their average, which is evaluated;"
                " use optimizer.ema=0"
            )
        if not config.callback.threshold:
            raise UserError(
                f"callback.threshold: {config.callback.name} needs the singular value to clip at; give a number above 0"
            )
        if config.callback.lr is not None and config.callback.last_epochs > config.epochs:
            raise UserError(
                f"callback.last_epochs: with a rate of their own (callback.lr) the last {config.callback.last_epochs}"
                f" epochs would begin before the run of {config.epochs}; give at most {config.epochs}"
            )
        last, healing = min(config.callback.last_epochs, config.epochs), config.callback.healing_epochs
        if healing >= last:
            raise UserError(
                f"callback.healing_epochs: {healing} leaves no epoch to project after; it must be less than {last}"
            )
        if not any(is_due(config, epoch) for epoch in range(config.epochs)):
            raise UserError(
                f"callback.every_epochs: {config.callback.every_epochs} leaves no epoch to project after in a run of"
                f" {config.epochs}, where the last {config.callback.last_epochs} begin before it; choose fewer, or"
                f" callback.last_epochs={config.epochs}"
            )

    def learning_rate(self, scheduled: float, epoch: int) -> float:
        """In the last epochs `callback.lr`, a tenth of it after a fifth of them and again after a third."""
        own, passed = self.config.callback, epoch - (self.config.epochs - self.config.callback.last_epochs)
        if own.lr is None or passed < 0:
            return scheduled
        return own.lr * 0.1 ** sum(passed * part >= own.last_epochs for part in (5, 3))

    def after_epoch(self, epoch: int) -> bool:
        """Project after every `every_epochs` of the last `last_epochs` epochs, but for those that heal the network."""
        own, due = self.config.callback, is_due(self.config, epoch)
        if due:
            project_ranks(self.model, self.images, own.name, own.threshold)
        return due
