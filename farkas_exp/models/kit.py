"""The parts of plain and Farkas networks, so that both share one skeleton."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from farkas_exp.config.schema import ActivationConfig, NormalizationConfig
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLinear
from farkas_exp.layers.normalization import build_normalization
from farkas_exp.layers.residual import FarkasResidualConv2d, ResidualConv2d, ResidualLayer
from farkas_exp.layers.rule import FarkasRule


@dataclass(frozen=True)
class LayerKit:
    """Builds the layers of one network, plain or Farkas.

    Attributes:
        farkas: whether the layers are Farkas layers.
        appends: whether residual layers append the aggregated component of their sum (Algorithm 2), or sum plainly.
        rule: of Farkas layers.
        activation: of every layer.
        normalization: of every layer, with its position and affinity filled in.
        norms: the normalizations that it has made.
    """

    farkas: bool
    appends: bool
    rule: FarkasRule
    activation: ActivationConfig
    normalization: NormalizationConfig
    norms: list[nn.Module] = field(default_factory=list, compare=False)

    @property
    def growth(self) -> int:
        """The channels that a residual block adds: the appended component of Algorithm 2."""
        return 1 if self.appends else 0

    @property
    def least(self) -> int:
        """The least units of a layer."""
        return 2 if self.farkas else 1

    @property
    def norm_after(self) -> bool:
        """Whether a normalization stands after the activation."""
        return self.normalization.position == "after"

    def act(self) -> Activation:
        """The activation."""
        return Activation(self.activation.name, self.activation.cutoff)

    def norm(self, channels: int, spatial: bool = True) -> nn.Module:
        """The normalization over `channels`."""
        self.norms.append(build_normalization(self.normalization, channels, spatial))
        return self.norms[-1]

    def linear(self, inputs: int, outputs: int) -> nn.Linear | FarkasLinear:
        """A linear layer."""
        return FarkasLinear(inputs, outputs, self.rule) if self.farkas else nn.Linear(inputs, outputs)

    def conv(
        self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, bias: bool = True
    ) -> nn.Conv2d | FarkasConv2d:
        """A convolution that keeps the image size, divided by `stride`; a Farkas one has a bias in any case."""
        if self.farkas:
            return FarkasConv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, rule=self.rule)
        return nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=bias)

    def residual(self, inputs: int, channels: int, kernel_size: int) -> ResidualLayer:
        """The convolution that ends a residual branch; its block has `channels` + `growth` outputs."""
        if self.appends:
            return FarkasResidualConv2d(inputs, channels, kernel_size, 1, kernel_size // 2, rule=self.rule)
        return ResidualConv2d(inputs, channels, kernel_size, 1, kernel_size // 2)


class Unit(nn.Module):
    """Layer, activation, normalization: the last two in the order of the kit's `position`.

    After the activation (Algorithms 1 and 2), normalization leaves the Farkas guarantee alone; before it, most of them
    lose it (`layers.normalization` says which).
    """

    def __init__(self, kit: LayerKit, layer: nn.Module, channels: int, spatial: bool = True) -> None:
        super().__init__()
        self.layer = layer
        self.activation = kit.act()
        self.norm = kit.norm(channels, spatial)
        self.norm_after = kit.norm_after

    def forward(self, input: Tensor) -> Tensor:
        """The layer's input to its activated, normalized output."""
        if self.norm_after:
            return self.norm(self.activation(self.layer(input)))
        return self.activation(self.norm(self.layer(input)))


class ResidualUnit(nn.Module):
    """The end of a residual block: last layer of the branch, sum with the shortcut, activation, normalization.

    With the normalization `before`, it stands between the branch and the sum, as in ResNet v1.
    """

    def __init__(self, kit: LayerKit, layer: ResidualLayer, channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.activation = kit.act()
        self.norm = kit.norm(channels)
        self.norm_after = kit.norm_after

    def forward(self, hidden: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output from the last hidden maps of its branch and its input."""
        if self.norm_after:
            return self.norm(self.layer.activate(hidden, shortcut, self.activation))
        return self.activation(self.layer.merge(self.norm(self.layer.branch(hidden)), shortcut))
