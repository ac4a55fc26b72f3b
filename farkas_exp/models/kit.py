"""The parts that plain and Farkas networks are built from, so that both share one skeleton."""

from dataclasses import dataclass

from torch import Tensor, nn

from farkas_exp.errors import UserError, unknown
from farkas_exp.layers.activation import Activation, activation_cutoff
from farkas_exp.layers.augmented import AGGREGATIONS
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLinear
from farkas_exp.layers.normalization import build_normalization
from farkas_exp.layers.residual import FarkasResidualConv2d, ResidualConv2d, ResidualLayer
from farkas_exp.models.options import ModelOptions


@dataclass(frozen=True)
class LayerKit:
    """Builds the layers of one network: plain or Farkas, with one activation and one normalization."""

    farkas: bool
    activation: str
    cutoff: float
    normalization: str
    position: str
    affine: bool
    groups: int
    aggregation: str
    margin: float
    learn_lambda: bool

    @property
    def growth(self) -> int:
        """By how many channels a residual block grows: the appended component of Algorithm 2."""
        return 1 if self.farkas else 0

    @property
    def keeps_batch_last(self) -> bool:
        """Whether a network of these layers can stay in the memory format of the native convolution throughout."""
        return self.farkas and not self.learn_lambda and self.normalization == "none"

    @property
    def _rule(self) -> dict[str, object]:
        return {
            "aggregation": self.aggregation,
            "margin": self.margin,
            "cutoff": self.cutoff,
            "learn_lambda": self.learn_lambda,
        }

    def act(self) -> Activation:
        """The activation."""
        return Activation(self.activation, self.cutoff)

    def norm(self, channels: int, spatial: bool = True) -> nn.Module:
        """The normalization over `channels`."""
        return build_normalization(
            self.normalization, channels, affine=self.affine, groups=self.groups, spatial=spatial
        )

    def linear(self, inputs: int, outputs: int) -> nn.Linear | FarkasLinear:
        """A linear layer."""
        if self.farkas:
            return FarkasLinear(inputs, outputs, **self._rule)  # type: ignore[arg-type]
        return nn.Linear(inputs, outputs)

    def conv(
        self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, bias: bool = True
    ) -> nn.Conv2d | FarkasConv2d:
        """A convolution that keeps the image size, divided by `stride`; a Farkas one has a bias in any case."""
        if self.farkas:
            return FarkasConv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, **self._rule)  # type: ignore[arg-type]
        return nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=bias)

    def residual(self, inputs: int, channels: int, kernel_size: int) -> ResidualLayer:
        """The convolution that ends a residual branch; its block puts out `channels` + `growth`."""
        if self.farkas:
            return FarkasResidualConv2d(inputs, channels, kernel_size, 1, kernel_size // 2, **self._rule)  # type: ignore[arg-type]
        return ResidualConv2d(inputs, channels, kernel_size, 1, kernel_size // 2)


def build_kit(options: ModelOptions) -> LayerKit:
    """The kit for `options`.

    Raises:
        UserError: an unknown name among the options.
    """
    if options.aggregation not in AGGREGATIONS:
        raise unknown("aggregation.name", options.aggregation, AGGREGATIONS)
    if options.margin < 0:
        raise UserError(f"aggregation.margin: {options.margin!r} is out of range; it must be at least 0")
    default_cutoff = activation_cutoff(options.activation)
    network = options.network
    return LayerKit(
        farkas=network.farkas,
        activation=options.activation,
        cutoff=default_cutoff if options.cutoff is None else options.cutoff,
        normalization=options.normalization,
        position=options.norm_position or next(iter(network.positions), "after"),
        affine=network.affine if options.norm_affine is None else options.norm_affine,
        groups=options.norm_groups,
        aggregation=options.aggregation,
        margin=options.margin,
        learn_lambda=options.learn_lambda,
    )


class Unit(nn.Module):
    """Layer, activation, normalization: the last two in the order of the kit's `position`.

    After the activation (Algorithms 1 and 2), normalization leaves the Farkas guarantee alone; before it, the
    guarantee is lost.
    """

    def __init__(self, kit: LayerKit, layer: nn.Module, channels: int, spatial: bool = True) -> None:
        super().__init__()
        self.layer = layer
        self.activation = kit.act()
        self.norm = kit.norm(channels, spatial)
        self.norm_after = kit.position == "after"

    def forward(self, input: Tensor) -> Tensor:
        """The layer's input to its activated, normalized output."""
        return self.fork(input)[0]

    def fork(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """forward(input), and the input for its second use: a shortcut whose gradient some layers add up themselves."""
        if not self.norm_after:
            return self.activation(self.norm(self.layer(input))), input
        if not isinstance(self.layer, FarkasConv2d):
            return self.norm(self.activation(self.layer(input))), input
        hidden, input = self.layer.fork(input, self.activation)
        return self.norm(hidden), input


class ResidualUnit(nn.Module):
    """The end of a residual block: last layer of the branch, sum with the shortcut, activation, normalization.

    With the normalization `before`, it stands between the branch and the sum, as in ResNet v1.
    """

    def __init__(self, kit: LayerKit, layer: ResidualLayer, channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.activation = kit.act()
        self.norm = kit.norm(channels)
        self.norm_after = kit.position == "after"

    def forward(self, hidden: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output from the last hidden maps of its branch and its input."""
        if self.norm_after:
            return self.norm(self.layer.activate(hidden, shortcut, self.activation))
        return self.activation(self.layer.merge(self.norm(self.layer.branch(hidden)), shortcut))
