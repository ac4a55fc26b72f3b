"""`create_model` builds a network by its name and checks its options."""

from collections.abc import Sequence

from torch import nn

from farkas_exp.errors import UserError, unknown
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.residual import ResidualBlock, Scaling
from farkas_exp.models.fixup import ScalarBias, ScalarScale
from farkas_exp.models.head import HEADS
from farkas_exp.models.options import ModelOptions
from farkas_exp.registry import NETWORKS

SCALAR_MODULES = (ScalarBias, ScalarScale)
"""Modules with a single trainable number, which FixUp trains with a learning rate of their own."""
WEIGHT_MODULES = (nn.Linear, nn.Conv2d, FarkasLayer)
"""Modules whose `weight` is a weight in the sense of weight decay."""


def create_model(
    name: str,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    normalization: str = "none",
    norm_position: str | None = None,
    norm_affine: bool | None = None,
    norm_groups: int = 8,
    aggregation: str = "sum",
    margin: float = 0.0,
    learn_lambda: bool = False,
    activation: str = "relu",
    cutoff: float | None = None,
    variant: str | None = None,
    head_bn: bool | None = None,
    blocks: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    depth: int | None = None,
    width: int | None = None,
    residual: bool | None = None,
    downsample: str | None = None,
    residual_alpha: float = 1.0,
    residual_beta: float = 1.0,
    residual_depth_exponent: float = 0.0,
    bias: bool | None = None,
    head: str = "linear",
) -> nn.Module:
    """Build a network that maps (N, in_channels, image_size, image_size) float images to (N, num_classes) logits.

    The weights are drawn from PyTorch's default distributions by the global generator; `initialization.initialize`
    replaces them.

    Args:
        name: one of `NETWORKS`.
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: height and width of the images; networks of linear layers are built for it.
        normalization: none, batch, layer, group or instance.
        norm_position: `after` or `before` the activation. `before` voids the Farkas guarantee.
        norm_affine: whether the normalization has a trainable scale and shift.
        norm_groups: number of groups of group normalization.
        aggregation: of Farkas layers: sum or mean.
        margin: of Farkas layers: what lambda^T b / lambda_m exceeds its bound by at least.
        learn_lambda: whether Farkas layers learn their lambda.
        activation: relu, leaky_relu, elu, selu or softplus.
        cutoff: the cutoff c of Corollary 3.3, instead of the activation's own.
        variant: `paper` or `authors`, for networks that the authors' code builds differently.
        head_bn: batch normalization of the logits.
        blocks: residual blocks per stage.
        widths: channels per stage.
        depth: hidden layers of a rectangular network, of linear layers or convolutions.
        width: units of each of them.
        residual: whether each of them but the first adds its input to its pre-activation.
        downsample: `conv` or `pool`, how the ImageNet networks halve their images.
        residual_alpha: residual scaling: each block's sum is alpha (shortcut + beta * branch).
        residual_beta: beta.
        residual_depth_exponent: beta is `residual_beta` times the number of branches to this power.
        bias: whether the plain convolutions of an all-convolutional network have biases.
        head: the last layer: linear, or random_projection, which is not trained.

    Raises:
        UserError: an unknown name, an option that the network does not have, or a combination that cannot be built.
    """
    network = NETWORKS[name]
    if head not in HEADS:
        raise unknown("head.name", head, HEADS)
    options = ModelOptions(
        network=network,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        normalization=normalization,
        norm_position=norm_position,
        norm_affine=norm_affine,
        norm_groups=norm_groups,
        aggregation=aggregation,
        margin=margin,
        learn_lambda=learn_lambda,
        activation=activation,
        cutoff=cutoff,
        variant=variant,
        head_bn=head_bn,
        blocks=None if blocks is None else tuple(blocks),
        widths=None if widths is None else tuple(widths),
        depth=depth,
        width=width,
        residual=residual,
        downsample=downsample,
        bias=bias,
        head=head,
    )
    model: nn.Module = network.build(options.filled())
    if (residual_alpha, residual_beta, residual_depth_exponent) != (1.0, 1.0, 0.0):
        scale_residuals(model, name, residual_alpha, residual_beta, residual_depth_exponent)
    return model


def scale_residuals(model: nn.Module, name: str, alpha: float, beta: float, depth_exponent: float) -> None:
    """Residual scaling of every block of `model`; beta is `beta` times the number of branches to `depth_exponent`.

    Raises:
        UserError: the network has no residual branches, or a factor is not positive.
    """
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    if not blocks:
        raise UserError(f"residual: {name} has no residual branches to scale; use residual=unscaled")
    try:
        scaling = Scaling(alpha, beta * len(blocks) ** depth_exponent)
    except (ValueError, OverflowError) as error:
        raise UserError(str(error)) from None
    for block in blocks:
        block.set_scaling(scaling)
