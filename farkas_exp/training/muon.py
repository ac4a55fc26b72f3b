"""Muon for the hidden matrices of a network and AdamW for all else, as its author has it (Jordan et al. 2024).

The update of a matrix is its momentum with all singular values near 1, times 0.2 sqrt(max(rows, columns)) and the
learning rate: then it is about as large as AdamW's, and one learning rate serves both (Liu et al. 2025). PyTorch's
Muon takes matrices only; a filter (C, c, k, k) is the matrix (C, c k k), as in the author's convolutional networks.
Of a Farkas layer the matrix is that of the free rows, and the guarantee holds for whatever they are.

The first and the last layer of a network, biases, gains and places are AdamW's.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.config.schema import OptimizerConfig
from farkas_exp.machine.errors import UserError


def as_matrix(tensor: Tensor) -> Tensor:
    """(C, ...) as (C, all else), in the order in which it lies in memory: a view of a weight."""
    if tensor.dim() == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)


class MuonWithAdamW:
    """Two optimizers as one, for the groups with and without `hidden`."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"optimizer.name: muon needs PyTorch 2.9 or newer, not {torch.__version__}; use adamw")
        self.weights: list[nn.Parameter] = []
        matrices, others = [], []
        for group in groups:
            if group["hidden"]:
                self.weights += group["params"]
                group = {**group, "params": [nn.Parameter(as_matrix(each.detach())) for each in group["params"]]}
                matrices.append(group)
            else:
                others.append(group)
        if not matrices:
            raise UserError("optimizer.name: muon is for the matrices of hidden layers, and there are none; use adamw")
        self.matrices = [matrix for group in matrices for matrix in group["params"]]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=lr, fused=True),
            torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"),
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Update all parameters; the matrices lie in the memory of their weights."""
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            gradient = weight.grad
            if gradient is not None:  # in the order of the weight
                gradient = as_matrix(torch.empty_like(weight).copy_(gradient))
            matrix.grad = gradient
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)
        for weight in self.weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The states of both, one after the other."""
        saved = [part.state_dict() for part in self.parts]
        groups = [group for each in saved for group in each["param_groups"]]
        return {"state": [each["state"] for each in saved], "param_groups": groups}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore them."""
        groups = iter(saved["param_groups"])
        for part, state in zip(self.parts, saved["state"], strict=True):
            part.load_state_dict({"state": state, "param_groups": list(islice(groups, len(part.param_groups)))})


def muon(groups: Iterable[dict[str, Any]], lr: float, config: OptimizerConfig, fused: bool) -> MuonWithAdamW:
    """Muon, with AdamW for what is no hidden matrix."""
    return MuonWithAdamW(groups, lr)
