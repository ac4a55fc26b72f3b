"""The argument of a network's builder."""

from dataclasses import dataclass

from torch import nn

from farkas_exp.config.schema import HeadConfig, ModelConfig
from farkas_exp.models.kit import LayerKit
from farkas_exp.registry import HEADS, Network


@dataclass(frozen=True)
class Plan:
    """A network to build.

    Attributes:
        network: what it is.
        options: its own options, completed by its defaults.
        kit: builds its layers.
        head: its last layer.
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: height and width of the images.
    """

    network: Network
    options: ModelConfig
    kit: LayerKit
    head: HeadConfig
    num_classes: int
    in_channels: int
    image_size: int

    @property
    def name(self) -> str:
        """The network's name."""
        return self.network.name

    def classifier(self, features: int) -> nn.Module:
        """The last layer, from the features to the logits, for networks whose head can be chosen."""
        return HEADS[self.head.name].build(features, self.num_classes)
