"""`create_model` builds a network by its name and checks its options."""

import dataclasses
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from torch import nn

from farkas_exp.config.options import require
from farkas_exp.config.parsing import build_groups, with_options
from farkas_exp.config.schema import (
    ActivationConfig,
    AggregationConfig,
    HeadConfig,
    ModelConfig,
    NormalizationConfig,
    ResidualConfig,
    WeightConfig,
)
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.residual import ResidualBlock, Scaling
from farkas_exp.layers.rule import FarkasRule
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.models.fixup import ScalarBias, ScalarScale
from farkas_exp.models.kit import LayerKit
from farkas_exp.models.plan import Plan
from farkas_exp.registry import ACTIVATIONS, NETWORKS, WEIGHTS, Network

SCALAR_MODULES = (ScalarBias, ScalarScale)
"""Modules with a single trainable number, for which FixUp has a learning rate of their own."""
WEIGHT_MODULES = (nn.Linear, nn.Conv2d, FarkasLayer)
"""Modules whose `weight` takes weight decay."""

UNSCALED = ResidualConfig()


def create_model(
    model: str | Mapping[str, Any] | ModelConfig,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    normalization: str | Mapping[str, Any] | NormalizationConfig = "none",
    aggregation: str | Mapping[str, Any] | AggregationConfig = "sum",
    activation: str | Mapping[str, Any] | ActivationConfig = "relu",
    head: str | Mapping[str, Any] | HeadConfig = "linear",
    residual_scaling: Mapping[str, Any] | ResidualConfig = UNSCALED,
    weight: str | Mapping[str, Any] | WeightConfig = "none",
    **options: Any,
) -> nn.Module:
    """Build a network that maps (N, in_channels, image_size, image_size) float images to (N, num_classes) logits.

        create_model("farkasnet34", num_classes=10)
        create_model("resnet18", blocks=(1, 1), widths=(8, 16), normalization={"name": "batch", "position": "before"})

    A group is given as in the configuration, as a mapping of its keys, or by its name alone. The global generator draws
    the weights from PyTorch's default distributions; `initialization.initialize` replaces them.

    Args:
        model: one of `NETWORKS`.
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: height and width of the images; networks of linear layers are built for it.
        normalization: after or before each activation; `before` voids the Farkas guarantee.
        aggregation: of Farkas layers.
        activation: of every layer, with its cutoff c (Corollary 3.3).
        head: the last layer.
        residual_scaling: each block's sum is alpha (shortcut + beta * branch), or has a learned multiplier.
        weight: what convolutions do with their weights, such as `scaled`.
        options: the network's own, as in `ModelConfig`; None is the default.

    Raises:
        UserError: an unknown name, an option that the network does not have, or a combination that cannot be built.
    """
    for key, size in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        require(isinstance(size, Integral) and size >= 1, key, size, "a whole number of at least 1")
    own = {key: value for key, value in options.items() if value is not None}
    groups = build_groups(
        model=with_options(model, own), normalization=normalization, aggregation=aggregation, activation=activation,
        head=head, residual=residual_scaling, weight=weight,
    )  # fmt: skip
    network = NETWORKS[groups.model.name]
    plan = Plan(
        network=network,
        options=_options(network, groups.model),
        kit=_kit(network, groups.normalization, groups.aggregation, groups.activation),
        head=groups.head,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
    )
    built: nn.Module = network.build(plan)
    _check_choices(built, plan)
    ACTIVATIONS[plan.kit.activation.name].fit_to(built, plan.kit.activation)
    scale_residuals(built, network.name, groups.residual)
    WEIGHTS[groups.weight.name].build(built, plan.kit.act())
    return built


def _check_choices(built: nn.Module, plan: Plan) -> None:
    """Refuse choices that the builder, for example another package's, has ignored."""
    name, kit = plan.name, plan.kit
    if not isinstance(built, nn.Module):
        raise UserError(f"model.name: {name}: its builder has to return a module, not {type(built).__name__}")
    if kit.normalization.name != "none" and not kit.norms:
        raise UserError(
            f"normalization.name: {kit.normalization.name} does nothing here: {name} builds none by its kit; use none"
        )
    if plan.network.farkas and not any(isinstance(module, FarkasLayer) for module in built.modules()):
        raise UserError(f"model.name: {name} is registered as a Farkas network, and has no Farkas layer")


def _options(network: Network, given: ModelConfig) -> ModelConfig:
    """The network's options, completed by its defaults."""
    defaults = {key: getattr(value, "default", value) for key, value in network.options.items()}
    if given.variant == "authors":
        defaults |= network.authors
    return dataclasses.replace(given, **{k: v for k, v in defaults.items() if getattr(given, k) is None})


def _kit(
    network: Network, normalization: NormalizationConfig, aggregation: AggregationConfig, activation: ActivationConfig
) -> LayerKit:
    """The kit for a network, with its defaults for the normalization's position and affinity."""
    positions = network.positions or ("after", "before")
    position = normalization.position or positions[0]
    if position not in positions:
        raise unknown("normalization.position", position, positions)
    affine = network.affine if normalization.affine is None else normalization.affine
    cutoff = ACTIVATIONS[activation.name].cutoff if activation.cutoff is None else activation.cutoff
    return LayerKit(
        farkas=network.farkas,
        appends=network.appends and aggregation.append,
        rule=FarkasRule(aggregation.name, aggregation.margin, cutoff, aggregation.learn_lambda),
        activation=activation,
        normalization=dataclasses.replace(normalization, position=position, affine=affine),
    )


def scale_residuals(model: nn.Module, name: str, config: ResidualConfig) -> None:
    """Scale every residual block of `model`; beta is `beta` times the number of branches to `depth_exponent`."""
    if config == UNSCALED:
        return
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    if not blocks:
        raise UserError(f"residual: {name} has no residual branches to scale; use residual=unscaled")
    try:
        scaling = Scaling(config.alpha, config.beta * len(blocks) ** config.depth_exponent, config.skip)
    except (ValueError, OverflowError) as error:
        raise UserError(str(error)) from None
    for block in blocks:
        block.set_scaling(scaling)
    if config.multiplier is None:
        return
    if any(isinstance(module, SCALAR_MODULES) for module in model.modules()):
        raise UserError(f"residual.multiplier: {name} brings its own multipliers; use residual.multiplier=null")
    for block in blocks:
        try:
            block.set_multiplier(config.multiplier)
        except ValueError as error:
            raise UserError(f"residual.multiplier: {error}; use normalization.position=after or none") from None
