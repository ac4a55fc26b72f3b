"""Separation constraints (Riera et al. 2019, "Superseding model scaling by penalizing dead units and points").

For pre-activations z[i, j] (point i, unit j) of a layer, Sep-U wants every unit to be at least 1 at some point and at
most -1 at some point; Sep-P wants the same of every point over the units. What is missing are the slacks

    xi+ = relu(1 - max z),    xi- = relu(1 + min z),

closed forms of the paper's slack variables. Equations 13, 15 and 17 sum them over all units (points) and layers:
g = sum (c + rho) xi+ + (c - rho) xi-, with c = 1/2 as in Equation 17, a convex combination. The points are those of the
mini-batch. Minimum and maximum share their gradient among ties, so the term has a gradient even where all weights are
zero, as Equation 17 needs.

Equations 13 and 15 have a fraction "1/..." in front whose denominator the text has lost, and it decides how g_U and g_P
weigh against each other: raw sums over 85 points and 4 units weigh 21 to 1. `reduction` has the readings: `sum`;
`layer_mean`, in each layer the mean over the units plus the mean over the points; and `balanced`, that times the number
of points, so that g_P stays the sum and g_U weighs as much. Where both weigh alike Sep-UP trains as the paper says, and
with raw sums it does not (results/README.md), so `regularizer=sep_up` chooses `balanced`; that is an inference.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from farkas_exp.config import Config
from farkas_exp.config.schema import TORCH_COMPILE_MODES
from farkas_exp.layers.watching import watch_pre_activations
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import Regularizer, Training


def slack_sum(
    z: Tensor, dims: int | tuple[int, ...], coefficient: float = 0.5, rho: float = 0.0, times: int | None = None
) -> Tensor:
    """Sum of (c + rho) relu(1 - max z) + (c - rho) relu(1 + min z), over all other dimensions.

    Args:
        z: pre-activations, of a layer in each entry of the first dimension.
        dims: the points for Sep-U, the units for Sep-P.
        coefficient: c.
        rho: the asymmetry of Equation 17.
        times: take so many times the mean in each layer; None: the sum.
    """
    above, below = F.relu(1 - z.amax(dims)), F.relu(1 + z.amin(dims))
    total = (coefficient + rho) * above.sum() + (coefficient - rho) * below.sum()
    return total if times is None else total * (times * len(z) / above.numel())


def separation_penalty(
    pre_activations: Iterable[Tensor], *, units: bool = True, points: bool = True, coefficient: float = 0.5,
    rho: float = 0.0, conv_point: str = "image", reduction: str = "sum",
) -> Tensor:  # fmt: skip
    """g_U + g_P over layers, or one of them.

    Args:
        pre_activations: of each layer: (N, units), or (N, channels, H, W).
        units: whether g_U is in the sum (Sep-U, Equation 13).
        points: whether g_P is (Sep-P, Equation 15).
        coefficient: c.
        rho: see `slack_sum`.
        conv_point: what a point of a convolution is: an `image` (its largest and smallest value over channels and
            positions), or each `position` of each image. A unit is a channel, over images and positions, either way.
        reduction: `sum`, `layer_mean` (in each layer the mean over the units, and that over the points), or `balanced`
            (both times the number of points).
    """
    terms = []
    for z in _stacked(pre_activations):
        maps = z.dim() == 5  # (layers, N, C, H, W)
        by_position = maps and conv_point == "position"
        count = z.shape[1] * (z.shape[3] * z.shape[4] if by_position else 1)
        times = {"sum": None, "layer_mean": 1, "balanced": count}[reduction]
        if units:
            terms.append(slack_sum(z, (1, 3, 4) if maps else 1, coefficient, rho, times))
        if points:
            terms.append(slack_sum(z, (2, 3, 4) if maps and not by_position else 2, coefficient, rho, times))
    return torch.stack(terms).sum()


def _stacked(pre_activations: Iterable[Tensor]) -> list[Tensor]:
    """(layers, ...): linear layers of equal shape together, for few calls; maps, which are large, one by one."""
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    single = []
    for z in pre_activations:
        if z.dim() == 2:
            groups.setdefault(tuple(z.shape), []).append(z)
        else:
            single.append(z[None])
    return [torch.stack(group) for group in groups.values()] + single


class Separation(Regularizer):
    """Sep-U, Sep-P or Sep-UP: strength * (g_U + g_P) over all activated layers, and optionally the logits."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.seen: list[tuple[str, Tensor]] = []

    @classmethod
    def refuses(cls, config: Config, world_size: int) -> None:
        super().refuses(config, world_size)
        if world_size > 1:
            raise UserError(
                f"regularizer.name: {config.regularizer.name} looks at the units and points of a whole batch, so it is"
                " for one process"
            )

    @classmethod
    def executed_as(cls, config: Config, mode: str) -> str:
        if mode in TORCH_COMPILE_MODES:
            raise UserError(
                f"regularizer.name: {config.regularizer.name} watches the pre-activations, which compiled networks do"
                " not show; use compile=auto or none"
            )
        return mode

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the pre-activations of the forward pass."""
        with watch_pre_activations(self.model) as self.seen:
            yield

    def penalty(self, logits: Tensor) -> Tensor:
        """Strength * g of the last forward pass."""
        own = self.config.regularizer
        layers = [z.float() for _, z in self.seen] + ([logits.float()] if own.include_output else [])
        self.seen = []
        return own.strength * separation_penalty(
            layers, units=own.name != "sep_p", points=own.name != "sep_u", coefficient=own.coefficient, rho=own.rho,
            conv_point=own.conv_point, reduction=own.reduction,
        )  # fmt: skip
