"""FarkasNets on a CPU with images in the vector lanes: where `native_conv` is used.

Images are put into the batch-last memory format in chunks, and layers follow the format of their input. The first
stages, as far as that is faster, run on one chunk after the other; the rest of the network runs on the whole batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farkas_exp.kernels import native_conv, native_library
from farkas_exp.kernels.forking import ForkingBasicBlock, ForkingBottleneck, ForkingUnit
from farkas_exp.kernels.fused import (
    FusedFarkasConv2d,
    FusedFarkasResidualConv2d,
    allowed,
    constants,
    is_plain_relu,
    keeps_size,
)
from farkas_exp.kernels.swapping import Swapped, is_watched, swap_classes
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.paths import fused_allowed
from farkas_exp.layers.residual import UNSCALED
from farkas_exp.models.kit import Unit
from farkas_exp.models.resnet import ResidualNet, Transition

SMALLEST = 2
"""The least height and width of maps for which the kernel is faster than PyTorch's convolution."""
WIDEST, WIDEST_ON_SMALL_MAPS = 72, 136
"""The most channels of a 3x3 convolution for which it is (see `faster`)."""


class BatchLastFarkasConv2d(FusedFarkasConv2d):
    """A Farkas convolution by the kernel, on batch-last maps."""

    def forward(self, input: Tensor) -> Tensor:
        if _suits(self, input):
            return _convolve(self, input, None, relu=False)[0]
        return super().forward(input)

    def with_relu(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """relu(forward(input)) on suitable maps, and the input for a second use, whose gradient the kernel adds."""
        return _convolve(self, input, None, relu=True)


class BatchLastFarkasResidualConv2d(FusedFarkasResidualConv2d):
    """The end of a residual branch by the kernel, shortcut, sum and ReLU included, on batch-last maps."""

    def branch(self, hidden: Tensor) -> Tensor:
        if _suits(self, hidden):
            return _convolve(self, hidden, None, relu=False)[0]
        return super().branch(hidden)

    def forward(self, hidden: Tensor, shortcut: Tensor) -> Tensor:  # type: ignore[override]
        if self._sums(hidden, shortcut):
            return _convolve(self, hidden, shortcut, relu=False)[0]
        return super().forward(hidden, shortcut)

    def activate(self, hidden: Tensor, shortcut: Tensor, activation: Activation) -> Tensor:
        if is_plain_relu(activation) and self._sums(hidden, shortcut):
            return _convolve(self, hidden, shortcut, relu=True)[0]
        return super().activate(hidden, shortcut, activation)

    def _sums(self, hidden: Tensor, shortcut: Tensor) -> bool:
        return self.scaling == UNSCALED and shortcut.dtype == hidden.dtype and _suits(self, hidden)


def _suits(layer: FarkasConv2d, input: Tensor) -> bool:
    """Whether the kernel can compute this layer: on batch-last maps, 1x1 or 3x3, and of the same size."""
    if not (allowed(layer) and native_conv.is_batch_last(input) and keeps_size(layer)):
        return False
    if not (input.dtype == layer.weight.dtype == torch.float32) or input.device.type != "cpu":
        return False
    lanes = native_library.lanes() if native_library.available() else 0
    return lanes > 0 and len(input) % lanes == 0 and input.data_ptr() % (4 * lanes) == 0


def _convolve(layer: FarkasConv2d, input: Tensor, shortcut: Tensor | None, relu: bool) -> tuple[Tensor, Tensor]:
    return native_conv.Convolve.apply(input, *layer.free(), shortcut, *constants(layer), relu)  # type: ignore[no-any-return]


class BatchLastUnit(ForkingUnit):
    """A unit whose convolution includes its ReLU."""

    def fork(self, input: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layer
        included = self.norm_after and is_plain_relu(self.activation)
        if isinstance(layer, BatchLastFarkasConv2d) and included and _suits(layer, input):
            hidden, input = layer.with_relu(input)
            return self.norm(hidden), input
        return super().fork(input)


class BatchLastTransition(Swapped, Transition):
    """A transition that pools in the memory format of its maps."""

    plain = Transition

    def forward(self, input: Tensor) -> Tensor:
        maps = self.project(input)
        if not native_conv.is_batch_last(maps):
            return self.pool(maps)
        # with images and channels exchanged they are channels_last, which PyTorch pools fast
        return self.pool(maps.transpose(0, 1)).transpose(0, 1)


class BatchLastNet(Swapped, ResidualNet):
    """A residual network whose first stages run in the batch-last format."""

    plain = ResidualNet

    def features(self, images: Tensor) -> Tensor:
        count = worth_it(self, images.shape[-1]) if usable(images) and keeps_format(self) else 0
        if not count:
            return super().features(images)
        whole = len(images) - len(images) % native_library.lanes()
        chunks = native_conv.batch_last_chunks(images[:whole])
        chunks += [images[whole:]] if whole < len(images) else []
        layers = [self.stem, *self.stages]  # a slice of `stages` would make a module at every step
        first, rest = layers[: 1 + count], layers[1 + count :]
        parts = [_through(first, chunk) for chunk in chunks]
        if not rest:
            return torch.cat([spatial_mean(part) for part in parts])
        maps = torch.cat([part.contiguous(memory_format=torch.channels_last) for part in parts])
        return _through(rest, maps).mean((2, 3))


def _through(layers: Sequence[nn.Module], maps: Tensor) -> Tensor:
    for layer in layers:
        maps = layer(maps)
    return maps


def spatial_mean(maps: Tensor) -> Tensor:
    """The mean over the positions, (N, C), with a gradient in the memory format of the maps (N, C, H, W)."""
    if native_conv.is_batch_last(maps):
        return maps.permute(1, 2, 3, 0).flatten(1, 2).mean(1).t()
    return maps.mean((2, 3))


def usable(images: Tensor) -> bool:
    """Whether the kernel can run on these images: float32 on a CPU, at least a vector of them, in eager mode."""
    if not fused_allowed() or type(images) is not Tensor or images.dim() != 4:
        return False
    if images.device.type != "cpu" or images.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return native_library.available() and len(images) >= native_library.lanes()


def worth_it(net: ResidualNet, image_size: int) -> int:
    """How many of the first stages of `net` the kernel makes faster."""
    count, size = 0, image_size
    for stage in net.stages:
        if size < SMALLEST or not faster(widest(stage), size):
            break
        count, size = count + 1, size // 2
    return count


def widest(stage: nn.Module) -> int:
    """The most inputs of a convolution larger than 1x1, which decide the cost of a stage."""
    layers = [layer for layer in stage.modules() if isinstance(layer, FarkasConv2d)]
    return max((layer.in_channels for layer in layers if layer.kernel_size != (1, 1)), default=0)


def faster(channels: int, size: int) -> bool:
    """Whether the kernel was measured to be faster than the library's 3x3 convolution on such maps.

    Seconds of a basic block (forward and backward, 32 images) over the library's, one thread, AVX2:

    | channels | 16 | 32 | 48 | 64 | 80 | 96 | 128 | 256 |
    |---|---|---|---|---|---|---|---|---|
    | 32x32 | .90 | .81 | 1.15 | 1.00 | | | | |
    | 16x16 | .74 | .87 | .92 | .99 | 1.01 | 1.23 | 1.29 | |
    | 8x8 | .48 | .70 | .76 | .89 | 1.12 | .98 | 1.09 | 1.39 |
    | 4x4 | .42 | .57 | .67 | .71 | .77 | .82 | .87 | 1.33 |

    1x1 convolutions gain up to 128 channels at every size and lose nothing at 256. With one channel more, as most
    layers have it, the library pays for a whole vector of them, and the kernel does not.
    """
    return channels <= (WIDEST if size >= 8 else WIDEST_ON_SMALL_MAPS)


def swap(model: nn.Module, device: torch.device) -> None:
    """Give FarkasNets in `model` the classes above, if `device` is a CPU and there is a compiler."""
    if device.type != "cpu":
        return
    for net in [module for module in model.modules() if type(module) is ResidualNet]:
        if keeps_format(net) and native_library.available():
            swap_classes(net, CLASSES)


def keeps_format(net: ResidualNet) -> bool:
    """Whether all modules that the maps pass through keep the batch-last format: Farkas layers, no normalization.

    They take a part of the images at a time, which neither a normalization nor a hook may see.
    """
    modules: list[nn.Module] = [net.stem, net.stages]
    for module in modules:  # at each step; `modules()` takes more than twice as long
        modules += [child for child in module._modules.values() if child is not None]
    parts = [part for part in modules if not part._modules]
    known = (FusedFarkasConv2d, FusedFarkasResidualConv2d, Activation, nn.Identity, nn.AvgPool2d)
    fixed = all(not part.rule.learn_lambda for part in parts if isinstance(part, FarkasConv2d))
    kept = isinstance(net.stem, Unit) and fixed and all(isinstance(part, known) for part in parts)
    return kept and not is_watched(*modules)


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    FusedFarkasConv2d: BatchLastFarkasConv2d,
    FusedFarkasResidualConv2d: BatchLastFarkasResidualConv2d,
    **{kind.plain: kind for kind in (BatchLastUnit, ForkingBasicBlock, ForkingBottleneck, BatchLastTransition)},
    ResidualNet: BatchLastNet,
}
