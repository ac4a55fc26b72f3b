"""The optimizer, and its parameter groups by module type."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from farkas_exp.config.schema import OptimizerConfig
from farkas_exp.initialization.matched import classifier_of
from farkas_exp.initialization.random import weight_layers
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import SCALAR_MODULES, WEIGHT_MODULES
from farkas_exp.registry import OPTIMIZERS

SCALAR_LR = 0.1
"""FixUp trains all its biases and its multipliers with a tenth of the learning rate (Zhang et al. 2019, their code)."""


def parameter_groups(
    model: nn.Module, weight_decay: float, decay: str = "weights", scalars: str = "own"
) -> list[dict[str, Any]]:
    """The parameters of `model` in groups, by the type of the module that owns them.

    Args:
        model: the network.
        weight_decay: for the weights of linear and convolution layers, plain and Farkas.
        decay: "weights": biases, normalization parameters and the like are not decayed; "all_but_biases": only biases
            are not; "all": everything is.
        scalars: of FixUp, trained by its "own" rule (biases and multipliers at a tenth of the rate, everything
            decayed), or by the "common" one, where a multiplier is a weight.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale` (the factor on the schedule's learning rate), in an order
        that depends on the network alone. A group without parameters is left out.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): [], (True, SCALAR_LR): []}
    seen: set[nn.Parameter] = set()
    fixup = scalars == "own" and any(isinstance(module, SCALAR_MODULES) for module in model.modules())
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            scalar = isinstance(module, SCALAR_MODULES)
            if fixup and (scalar or name == "bias"):
                groups[(True, SCALAR_LR)].append(parameter)
            else:
                layer = isinstance(module, (*WEIGHT_MODULES, _ConvNd))
                is_weight = (layer and name == "weight") or (scalar and name != "bias")
                decayed = is_weight or decay == "all" or (decay == "all_but_biases" and name != "bias")
                groups[(decayed, 1.0)].append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay if decayed else 0.0, "lr_scale": scale}
        for (decayed, scale), params in groups.items()
        if params
    ]


def hidden_apart(groups: Iterable[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """The groups, each split by `hidden` into the weights of layers between the first and the last, and all else."""
    _, *layers = weight_layers(model)
    hidden = {layer.weight for layer in layers} - {classifier_of(model).weight}
    parts = [
        {**group, "params": [each for each in group["params"] if (each in hidden) == wanted], "hidden": wanted}
        for group in groups
        for wanted in (True, False)
    ]
    return [part for part in parts if part["params"]]


def sgd(groups: Iterable[dict[str, Any]], lr: float, config: OptimizerConfig, fused: bool) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, Nesterov's if so configured."""
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)


def adam(groups: Iterable[dict[str, Any]], lr: float, config: OptimizerConfig, fused: bool) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015), the weight decay in the gradient."""
    return torch.optim.Adam(groups, lr=lr, fused=fused)


def adamw(groups: Iterable[dict[str, Any]], lr: float, config: OptimizerConfig, fused: bool) -> torch.optim.Optimizer:
    """AdamW, the weight decay beside the gradient, times the learning rate (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(groups, lr=lr, fused=fused)


def build_optimizer(model: nn.Module, config: OptimizerConfig, lr: float) -> torch.optim.Optimizer:
    """The optimizer for `model`; its fused form, which does one pass over the parameters.

    Raises:
        UserError: there is nothing to train, or the optimizer does not train every parameter, or not by its group.
    """
    entry = OPTIMIZERS[config.name]
    groups = parameter_groups(model, config.weight_decay, config.decay, config.scalars)
    if not groups:
        raise UserError("model: it has no parameters to train")
    optimizer: torch.optim.Optimizer = entry.build(
        hidden_apart(groups, model) if entry.matrices else groups, lr, config, True
    )
    if not all("lr_scale" in group for group in getattr(optimizer, "param_groups", [{}])):
        raise UserError(
            f"optimizer.name: {config.name}: its builder has to return an optimizer of the parameter groups that it is"
            " given, which have their own decay and share of the rate"
        )
    # Muon has matrices in the memory of the parameters
    kept = {parameter.data_ptr() for group in optimizer.param_groups for parameter in group["params"]}
    lost = sum(parameter.data_ptr() not in kept for group in groups for parameter in group["params"])
    if lost:
        raise UserError(f"optimizer.name: {config.name} leaves {lost} of the parameters that it was given untrained")
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * group["lr_scale"])
        else:
            group["lr"] = lr * group["lr_scale"]


def keep_rates(optimizer: torch.optim.Optimizer, device: torch.device | None) -> None:
    """Keep the learning rates as tensors on `device`, where a recorded step reads them, or (None) as numbers."""
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        group["lr"] = rate if device is None else torch.tensor(rate, device=device)
        if "capturable" in group:
            group["capturable"] = device is not None


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state for a checkpoint, the same whether its steps are recorded or not."""
    state = optimizer.state_dict()
    return {**state, "param_groups": [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]}
