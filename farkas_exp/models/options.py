"""The options of the networks, and the check that a network has the options that it is given."""

from dataclasses import dataclass, fields, replace

from farkas_exp.errors import UserError, unknown
from farkas_exp.registry import Network


@dataclass(frozen=True)
class ModelOptions:
    """What `create_model` was asked for; an own option of the network that is None takes its default (`filled`).

    The options of normalization, aggregation and activation are shared by all networks; a plain network has no use for
    the aggregation's.
    """

    network: Network
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

    @property
    def name(self) -> str:
        """The network's name."""
        return self.network.name

    def filled(self) -> "ModelOptions":
        """These options with the network's defaults for those that are None.

        Raises:
            UserError: something is asked for that the network does not have.
        """
        self._check()
        defaults = dict(self.network.options)
        if self.variant == "authors":
            defaults |= self.network.authors
        return replace(self, **{key: value for key, value in defaults.items() if getattr(self, key) is None})

    def _check(self) -> None:
        network = self.network
        if not network.chooses_head and self.head != "linear":
            raise UserError(
                f"head.name: {self.name} ends in its own linear layer and cannot take {self.head!r}; use head=linear or"
                " one of the CIFAR residual networks, allconv_residual or linear_residual"
            )
        for option in OWN:
            if option not in network.options and getattr(self, option) is not None:
                own = ", ".join(f"model.{name}" for name in sorted(network.options)) or "none"
                raise UserError(f"model.{option}: {self.name} has no such option; its options: {own}")
        if not network.positions and self.normalization != "none":
            raise UserError(
                f"normalization: {self.name} takes none, got {self.normalization!r}; use normalization=none"
            )
        if self.norm_position is not None and self.norm_position not in (network.positions or ("after", "before")):
            raise unknown("normalization.position", self.norm_position, network.positions or ("after", "before"))


SHARED = (
    "network", "num_classes", "in_channels", "image_size", "normalization", "norm_position", "norm_affine",
    "norm_groups", "aggregation", "margin", "learn_lambda", "activation", "cutoff", "head",
)  # fmt: skip
"""The options that every network has."""
OWN = tuple(field.name for field in fields(ModelOptions) if field.name not in SHARED)
