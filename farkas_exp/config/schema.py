"""The typed schema of a run: every key of every group, its default, and whether it belongs to a run's identity.

A field made with `outside()` does not decide the numbers of a run and is left out of its hash (see `identity.py`). A
new field that keeps its default leaves every known hash as it is.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal


def outside(default: Any = dataclasses.MISSING, factory: Any = dataclasses.MISSING) -> Any:
    """A field that stays outside of a run's identity: it may change without changing the numbers of a run."""
    return field(default=default, default_factory=factory, metadata={"identity": False})


@dataclass(frozen=True)
class ModelConfig:
    """The network. An option left at null takes the default of the network's builder in `farkas_exp.models`."""

    name: str
    variant: Literal["paper", "authors"] | None = None
    head_bn: bool | None = None
    blocks: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    depth: int | None = None
    width: int | None = None
    residual: bool | None = None
    downsample: Literal["conv", "pool"] | None = None
    bias: bool | None = None


@dataclass(frozen=True)
class HeadConfig:
    """The last layer, from features to logits (`farkas_exp.models.head.HEADS`)."""

    name: str = "linear"


@dataclass(frozen=True)
class ResidualConfig:
    """Residual scaling (Balduzzi et al. 2017): each block's sum is alpha (shortcut + beta * branch).

    beta is `beta` times L to the power of `depth_exponent`, where L is the number of branches: -0.5 is the lecture's
    1/sqrt(L).
    """

    alpha: float = 1.0
    beta: float = 1.0
    depth_exponent: float = 0.0


@dataclass(frozen=True)
class NormalizationConfig:
    """Normalization of activations; `after` the activation as in the paper (Algorithms 1 and 2), or `before` it."""

    name: str = "none"
    position: Literal["after", "before"] | None = None
    affine: bool | None = None
    groups: int = 8


@dataclass(frozen=True)
class AggregationConfig:
    """How a Farkas layer forms its last component (Section 3.3)."""

    name: str = "sum"
    margin: float = 0.0
    learn_lambda: bool = False


@dataclass(frozen=True)
class ActivationConfig:
    """The activation and its cutoff c (Corollary 3.3); null takes the activation's own cutoff."""

    name: str = "relu"
    cutoff: float | None = None


@dataclass(frozen=True)
class InitConfig:
    """Initialization of the weights, and a factor on the last layer of every residual branch.

    The factor is `last_scale` times L to the power of `last_depth_exponent`, where L is the number of branches: -0.5
    keeps the variance of a sum of L branches independent of the depth.

    `bias` is what bias_shift adds to every bias, and the half-width of bias_uniform's range.
    """

    name: str = "pytorch"
    gain: float | None = None
    last_scale: float = 1.0
    last_depth_exponent: float = 0.0
    bias: float | None = None


@dataclass(frozen=True)
class LRConfig:
    """Learning rate and its schedule: times `gamma` from each milestone on.

    The milestones are epochs of a run of `reference_epochs`; a shorter or longer run scales them. null keeps them
    as they are.
    """

    value: float
    milestones: tuple[int, ...] = (60, 120, 160)
    gamma: float = 0.2
    reference_epochs: int | None = 200


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer; `decay: weights` leaves biases and normalization parameters without weight decay."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay: Literal["weights", "all"] = "weights"


@dataclass(frozen=True)
class AugmentationConfig:
    """Random crop with zero padding, horizontal flip, and cutout (its square filled with its own mean colour).

    Streamed images have a random resized crop in place of crop and cutout: `min_scale` is the least part of the image's
    area that it takes (null: 0.08, or what the phase says).
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 16
    cutout_fill: Literal["mean", "zero"] = "mean"
    min_scale: float | None = None


@dataclass(frozen=True)
class DatasetConfig:
    """The images. `validation` > 0 holds out that part of the training set and evaluates on it, not on the test set.

    `label` names the data of an image folder in the identity of a run (default: the name of the folder, links
    followed), so that moving the folder does not make it another experiment. ImageNet needs none.

    For streamed images: `workers` is the number of decoding processes (null: one for each core, 0: none), `draft`
    decodes a JPEG no larger than needed, `copies` are the sizes of copies made by scripts/resize_images.py beside the
    root (160 for `<root>-160`), of which each phase takes the smallest that is large enough.
    """

    name: str
    root: str | None = outside(None)
    label: str | None = None
    image_size: int | None = None
    normalize: bool = False
    train_limit: int | None = None
    validation: float = 0.0
    num_classes: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    noise: float | None = None
    download: bool = outside(True)
    cache: bool = outside(True)
    workers: int | None = outside(None)
    draft: bool = True
    copies: tuple[int, ...] = ()

    @property
    def evaluated_on(self) -> Literal["test", "validation"]:
        """The set that a run is evaluated on, by which its figures are named: the test set, or the held-out part."""
        return "validation" if self.validation else "test"


@dataclass(frozen=True)
class PhaseConfig:
    """The epochs (from 0) before `until` that no earlier phase has: image size, global batch and learning rate.

    The rate goes from `lr_from` to `lr_to` in a straight line over the phase's steps. `min_scale` is the least part of
    an image's area that a training crop takes (null: the augmentation's). `rectangular` evaluates on batches of images
    of similar shape, cropped to their mean shape in the place of a square.
    """

    until: int
    image_size: int
    batch_size: int
    lr_from: float
    lr_to: float
    min_scale: float | None = None
    rectangular: bool = False


@dataclass(frozen=True)
class PhasesConfig:
    """A schedule for streamed images in place of `lr` and `batch_size`; `batch_scale` multiplies batch and rate."""

    name: str = "none"
    schedule: tuple[PhaseConfig, ...] = ()
    batch_scale: float = 1.0


@dataclass(frozen=True)
class RegularizerConfig:
    """What is added to the loss, times `strength` (the sibling papers' lambda and kappa).

    `coefficient`, `rho`, `conv_point` and `include_output` are options of the separation constraints; `norm_squared`,
    the mu^2 to which the squared norm of the parameters is drawn, of norm_bias.
    """

    name: str = "none"
    strength: float = 0.0
    coefficient: float = 0.5
    rho: float = 0.0
    conv_point: Literal["image", "position"] = "image"
    include_output: bool = False
    norm_squared: float = 0.0


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout after every activation: with rate p0, falling linearly to 0 at the share `anneal` of the run.

    An `anneal` of 0 keeps the rate.
    """

    rate: float = 0.0
    anneal: float = 1.0


@dataclass(frozen=True)
class AttackConfig:
    """Adversarial training: each batch is moved by projected gradient ascent, sizes in units of the pixels' [0, 1]."""

    name: str = "none"
    steps: int = 7
    step_size: float = 2 / 255
    epsilon: float = 8 / 255
    random_start: bool = True


@dataclass(frozen=True)
class CallbackConfig:
    """What is done to the weights after an epoch: from the last `last_epochs` on, every `every_epochs`.

    rank_min sets the singular values below `threshold` to zero, rank_max cuts those above it off.
    """

    name: str = "none"
    threshold: float = 0.0
    last_epochs: int = 15
    every_epochs: int = 1


@dataclass(frozen=True)
class FailureConfig:
    """A run has failed after `epochs` epochs at chance or worse in total, or when its loss is not finite."""

    epochs: int = 5


@dataclass(frozen=True)
class DiagnosticsConfig:
    """At which epochs dead units, dead points and Farkas margins are measured, on how many training images.

    `measures` names what else is measured then (`farkas_exp.diagnostics.MEASURES`); `lanczos_steps` is for the
    Hessian's eigenvalues, `ntk_images` for the tangent kernel.
    """

    epochs: tuple[int, ...] = ()
    images: int = 128
    measures: tuple[str, ...] = ()
    lanczos_steps: int = 80
    ntk_images: int = 25


@dataclass(frozen=True)
class CheckpointConfig:
    """How often a checkpoint is written, beside the one at an interruption; 0 switches that trigger off."""

    every_epochs: int = 1
    every_minutes: float = 5.0


@dataclass(frozen=True)
class WandbConfig:
    """The Weights & Biases mirror of the run directory."""

    mode: Literal["offline", "online", "disabled"] | None = None
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """One run: everything that the trainer is told."""

    model: ModelConfig
    lr: LRConfig
    dataset: DatasetConfig
    residual: ResidualConfig = ResidualConfig()
    normalization: NormalizationConfig = NormalizationConfig()
    aggregation: AggregationConfig = AggregationConfig()
    activation: ActivationConfig = ActivationConfig()
    init: InitConfig = InitConfig()
    head: HeadConfig = HeadConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    phases: PhasesConfig = PhasesConfig()
    regularizer: RegularizerConfig = RegularizerConfig()
    dropout: DropoutConfig = DropoutConfig()
    attack: AttackConfig = AttackConfig()
    callback: CallbackConfig = CallbackConfig()
    failure: FailureConfig = FailureConfig()
    epochs: int = 200
    batch_size: int = 128
    precision: Literal["fp32", "bf16"] = "fp32"
    label_smoothing: float = 0.0

    seed: int = outside(0)
    experiment: str | None = outside(None)
    arm: str | None = outside(None)
    only_for: tuple[str, ...] = outside(())
    device: Literal["auto", "cpu", "cuda"] = outside("auto")
    compile: Literal["auto", "none", "graph", "default", "reduce-overhead", "max-autotune"] = outside("auto")
    packing: int = outside(1)
    channels_last: bool = outside(True)
    runs_dir: str = outside("runs")
    retry_failed: bool = outside(False)
    fail_fast: bool = outside(False)
    progress: Literal["auto", "live", "plain", "none"] = outside("auto")
    diagnostics: DiagnosticsConfig = outside(factory=DiagnosticsConfig)
    checkpoint: CheckpointConfig = outside(factory=CheckpointConfig)
    wandb: WandbConfig = outside(factory=WandbConfig)
