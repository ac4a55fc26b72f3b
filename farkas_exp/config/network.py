"""The groups of the schema that describe the network; see `config.schema`."""

from dataclasses import dataclass
from typing import Literal

from farkas_exp.config.needs import ACTIVATED, ANY_HEAD, APPENDED, FARKAS, NORMALIZABLE, SPATIAL
from farkas_exp.config.options import option
from farkas_exp.registry import INITIALIZATIONS, NETWORKS, NORMALIZATIONS


@dataclass(frozen=True)
class ModelConfig:
    """The network. An option left at null takes the default of the network (`farkas_exp.models.catalogue`)."""

    name: str = option()
    variant: Literal["paper", "authors"] | None = option(None, of=NETWORKS)
    head_bn: bool | None = option(None, of=NETWORKS)
    blocks: tuple[int, ...] | None = option(None, at_least=1, at_most=1000, shortest=1, of=NETWORKS)
    widths: tuple[int, ...] | None = option(None, at_least=1, at_most=100_000, shortest=1, of=NETWORKS)
    depth: int | None = option(None, at_least=1, at_most=10_000, of=NETWORKS)
    width: int | None = option(None, at_least=1, at_most=100_000, of=NETWORKS)
    residual: bool | None = option(None, of=NETWORKS)
    downsample: Literal["conv", "pool"] | None = option(None, of=NETWORKS)
    bias: bool | None = option(None, of=NETWORKS)


@dataclass(frozen=True)
class HeadConfig:
    """The last layer, from features to logits (`farkas_exp.registry.HEADS`); a builder takes the numbers of both."""

    name: str = option("linear", needs=ANY_HEAD)


@dataclass(frozen=True)
class ResidualConfig:
    """Residual scaling (Balduzzi et al. 2017): each block's sum is alpha (shortcut + beta * branch).

    beta is `beta` times L to the power of `depth_exponent`, where L is the number of branches: -0.5 is the lecture's
    1/sqrt(L). `multiplier` is where a learned multiplier of the branch starts (SkipInit, ReZero); null: there is none.
    Without `skip` there are no shortcuts: a block is a chain of its layers.
    """

    alpha: float = option(1.0, above=0)
    beta: float = option(1.0, above=0)
    depth_exponent: float = option(0.0, at_least=-10, at_most=10)
    multiplier: float | None = option(None, at_least=0)
    skip: bool = option(True)


@dataclass(frozen=True)
class NormalizationConfig:
    """Normalization of activations; `after` the activation as in the paper (Algorithms 1 and 2), or `before` it.

    In a transformer it stands at the start of each residual `branch`.
    """

    name: str = option("none", needs=NORMALIZABLE)
    position: Literal["after", "before", "branch"] | None = option(None, of=NORMALIZATIONS)
    affine: bool | None = option(None, of=NORMALIZATIONS)
    groups: int = option(8, at_least=1, at_most=100_000, of=NORMALIZATIONS)


@dataclass(frozen=True)
class WeightConfig:
    """What a convolution does with its weight before it uses it (`farkas_exp.layers.standardization`)."""

    name: str = option("none", needs=SPATIAL)


@dataclass(frozen=True)
class AggregationConfig:
    """How a Farkas layer forms its last component (Section 3.3).

    A plain network ignores it, and counts all its values as one experiment: sweeps cross it with both kinds.
    `append: false` leaves Algorithm 2 out: residual sums are plain, all other layers Farkas layers (Algorithm 1).
    """

    name: str = option("sum", needs=FARKAS, tolerated=True)
    margin: float = option(0.0, at_least=0, needs=FARKAS, tolerated=True)
    learn_lambda: bool = option(False, needs=FARKAS, tolerated=True)
    append: bool = option(True, needs=APPENDED)


@dataclass(frozen=True)
class ActivationConfig:
    """The activation and its cutoff c in Farkas layers (Corollary 3.3); null takes the activation's own cutoff."""

    name: str = option("relu", needs=ACTIVATED)
    cutoff: float | None = option(None, needs=FARKAS)


@dataclass(frozen=True)
class InitConfig:
    """Initialization of the weights, and a factor on the last layer of every residual branch.

    The factor is `last_scale` times L to the power of `last_depth_exponent`, where L is the number of branches: -0.5
    keeps the variance of a sum of L branches independent of the depth. `classifier_std` draws the weights of the last
    layer of the network from N(0, classifier_std^2).

    `bias` is what bias_shift adds to every bias, and the half-width of bias_uniform's range.
    """

    name: str = option("pytorch")
    gain: float | None = option(None, above=0, of=INITIALIZATIONS)
    last_scale: float = option(1.0, at_least=0)
    last_depth_exponent: float = option(0.0, at_least=-10, at_most=10)
    classifier_std: float | None = option(None, above=0)
    bias: float | None = option(None, above=0, of=INITIALIZATIONS)
