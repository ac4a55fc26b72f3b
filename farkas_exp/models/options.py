"""The options of the networks, and the check that a network has the options that it is given."""

from collections.abc import Iterable
from dataclasses import dataclass

from farkas_exp.errors import UserError


@dataclass(frozen=True)
class ModelOptions:
    """What `create_model` was asked for; None stands for the network's own default.

    The options of normalization, aggregation and activation are shared by all networks; a plain network has no use for
    the aggregation's.
    """

    name: str
    num_classes: int = 10
    in_channels: int = 3
    image_size: int = 32
    normalization: str = "none"
    norm_position: str | None = None
    norm_affine: bool | None = None
    norm_groups: int = 8
    aggregation: str = "sum"
    margin: float = 0.0
    learn_lambda: bool = False
    activation: str = "relu"
    cutoff: float | None = None
    variant: str | None = None
    head_bn: bool | None = None
    blocks: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    depth: int | None = None
    width: int | None = None
    residual: bool | None = None
    downsample: str | None = None
    bias: bool | None = None
    head: str = "linear"

    def accept(self, accepted: Iterable[str], *, heads: bool = False) -> None:
        """Refuse an architecture option that the network does not have.

        Args:
            accepted: the network's own options.
            heads: whether its last layer is chosen by `head`.

        Raises:
            UserError: an option outside of `accepted` has a value, or a head is asked for where there is no choice.
        """
        if not heads and self.head != "linear":
            raise UserError(
                f"head.name: {self.name} ends in its own linear layer and cannot take {self.head!r}; use head=linear or"
                " one of the CIFAR residual networks, allconv_residual or linear_residual"
            )
        accepted = set(accepted)
        for option in ("variant", "head_bn", "blocks", "widths", "depth", "width", "residual", "bias", "downsample"):
            if option not in accepted and getattr(self, option) is not None:
                own = ", ".join(f"model.{name}" for name in sorted(accepted)) or "none"
                raise UserError(f"model.{option}: {self.name} has no such option; its options: {own}")
