"""The typed schema of a run: every key of every group, with its default, its range and what it needs.

A field made with `outside()` does not decide the numbers of a run and is left out of its hash (`config.identity`). A
new field at its default changes no known hash. Fields declare what they need (`options.py`), so that a value without
effect is refused; checks of several keys at once are in `pairs.py`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from farkas_exp.config.needs import (
    ACTIVATED,
    IMAGE_FOLDER,
    IN_MEMORY,
    MEAN_FILL,
    MILESTONES,
    NO_PHASES,
    OWN_RATES,
    PHASES,
    PIXELS,
    SHARED_DECAY,
    SPATIAL,
    STEPPED,
    STREAMED,
    WITH_LOSS,
    positive,
)
from farkas_exp.config.network import (
    ActivationConfig,
    AggregationConfig,
    HeadConfig,
    InitConfig,
    ModelConfig,
    NormalizationConfig,
    ResidualConfig,
    WeightConfig,
)
from farkas_exp.config.options import option, outside
from farkas_exp.registry import ATTACKS, CALLBACKS, DATASETS, OPTIMIZERS, REGULARIZERS

MOST_EPOCHS = 1_000_000
"""More would never end."""
MOST_PIXELS = 4096
"""The largest side of an image."""
MOST_IMAGES = 100_000_000
"""Of a data set, or of a batch."""
Tracker = Literal["csv", "tensorboard"]
"""A further mirror of the metrics."""
TorchCompile = Literal["default", "reduce-overhead", "max-autotune"]
TORCH_COMPILE_MODES = get_args(TorchCompile)
"""The choices of `compile` that compile the network (`torch.compile`)."""
WandbMode = Literal["offline", "online", "disabled"]


@dataclass(frozen=True)
class LRConfig:
    """Learning rate and its schedule: times `gamma` from each milestone on.

    The milestones are epochs of a run of `reference_epochs`; a shorter or longer run scales them (null: does not).
    `cosine` falls to zero at the end of the run. In the first `warmup` epochs the rate rises from zero, step by step.
    Phases bring their own rates, and leave all this at the values of `lr=small`.
    """

    value: float = option(above=0, needs=NO_PHASES, idle=0.01)
    milestones: tuple[int, ...] = option(
        (60, 120, 160), at_least=0, at_most=MOST_EPOCHS, increasing=True, needs=(NO_PHASES, STEPPED)
    )
    gamma: float = option(0.2, above=0, needs=(NO_PHASES, STEPPED, MILESTONES))
    reference_epochs: int | None = option(200, at_least=1, at_most=MOST_EPOCHS, needs=(NO_PHASES, STEPPED, MILESTONES))
    schedule: Literal["steps", "cosine"] = option("steps", needs=NO_PHASES)
    warmup: float = option(0.0, at_least=0, needs=NO_PHASES)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer; `decay: weights` leaves biases and normalization parameters without weight decay.

    `all_but_biases` decays the scales of normalizations, too. FixUp's scalars are trained by its `own` rule (its biases
    and multipliers at a tenth of the rate, everything decayed), or like the parameters of other networks (`common`: all
    at the full rate, multipliers decayed as weights are).

    `clip_norm` is the largest norm of the gradient, `clip_units` of that of each unit as a part of its weight's
    (adaptive gradient clipping); null: not clipped. `ema` > 0 evaluates with an exponential moving average of the
    weights.
    """

    name: str = option("sgd")
    momentum: float = option(0.9, at_least=0, below=1, of=OPTIMIZERS)
    nesterov: bool = option(False, of=OPTIMIZERS, needs=positive("optimizer.momentum"))
    weight_decay: float = option(5e-4, at_least=0)
    decay: Literal["weights", "all_but_biases", "all"] = option(
        "weights", needs=(positive("optimizer.weight_decay"), SHARED_DECAY)
    )
    scalars: Literal["own", "common"] = option("own", needs=OWN_RATES)
    clip_norm: float | None = option(None, above=0)
    clip_units: float | None = option(None, above=0)
    ema: float = option(0.0, at_least=0, below=1)


@dataclass(frozen=True)
class AugmentationConfig:
    """Random crop with zero padding, horizontal flip, and cutout (its square filled with its own mean colour).

    `cutout_variant: authors` is the published code's: the centre of an even square may also be one pixel behind the
    last row and column, and its mean colour is cut to a whole number.

    Streamed images take a random resized crop in place of crop and cutout: `min_scale` is its least share of the
    image's area (null: 0.08, or the phase's). Points (dataset=moons) are not augmented. `mixup` and `cutmix` are the
    alpha of their Beta distribution, 0: without; with both, each batch has one of them.
    """

    crop_padding: int = option(4, at_least=0, at_most=MOST_PIXELS, needs=IN_MEMORY, idle=0)
    flip: bool = option(True, needs=PIXELS, idle=False)
    cutout: int = option(16, at_least=0, at_most=MOST_PIXELS, needs=IN_MEMORY, idle=0)
    cutout_fill: Literal["mean", "zero"] = option("mean", needs=(IN_MEMORY, positive("augmentation.cutout")))
    cutout_variant: Literal["paper", "authors"] = option(
        "paper", needs=(IN_MEMORY, positive("augmentation.cutout"), MEAN_FILL)
    )
    min_scale: float | None = option(None, above=0, at_most=1, needs=STREAMED)
    mixup: float = option(0.0, at_least=0, at_most=1000, needs=PIXELS)
    cutmix: float = option(0.0, at_least=0, at_most=1000, needs=PIXELS)


@dataclass(frozen=True)
class DatasetConfig:
    """The images. `validation` > 0 holds out that share of the training set and evaluates on it, not on the test set.

    `label` names an image folder in the identity of a run (default: the folder's name, links followed), so that moving
    the folder changes nothing. ImageNet needs none.

    `workers` is the number of processes that decode images (null: one for each core, 0: none). For streamed images:
    `draft` decodes a JPEG no larger than needed, `copies` are the sizes of smaller copies beside the root, made by
    scripts/resize_images.py (160 for `<root>-160`); each phase takes the smallest that is large enough.
    """

    name: str = option()
    root: str | None = outside(None, is_path=True, of=DATASETS)
    label: str | None = option(None, needs=IMAGE_FOLDER)
    image_size: int | None = option(None, at_least=1, at_most=MOST_PIXELS, needs=(PIXELS, NO_PHASES))
    normalize: bool = option(False)
    train_limit: int | None = option(None, at_least=1, at_most=MOST_IMAGES)
    validation: float = option(0.0, at_least=0, below=1)
    num_classes: int | None = option(None, at_least=2, at_most=1_000_000, of=DATASETS)
    train_size: int | None = option(None, at_least=1, at_most=MOST_IMAGES, of=DATASETS)
    test_size: int | None = option(None, at_least=1, at_most=MOST_IMAGES, of=DATASETS)
    noise: float | None = option(None, at_least=0, of=DATASETS)
    stratify: bool | None = option(None, of=DATASETS)
    download: bool = outside(True)
    cache: bool = outside(True)
    workers: int | None = outside(None, at_least=0, at_most=1024)
    draft: bool = option(True, needs=STREAMED)
    copies: tuple[int, ...] = option((), at_least=1, at_most=MOST_PIXELS, needs=STREAMED)

    @property
    def evaluated_on(self) -> Literal["test", "validation"]:
        """The evaluation set, by which figures are named: the test set, or the held-out part."""
        return "validation" if self.validation else "test"


@dataclass(frozen=True)
class PhaseConfig:
    """Image size, global batch and learning rate of the epochs (from 0) from the previous phase to before `until`.

    The rate goes linearly from `lr_from` to `lr_to` over the phase's steps. `min_scale` is the least share of an
    image's area in a training crop (null: the augmentation's). `rectangular` evaluates on batches of images of similar
    shape, cropped to their mean shape in place of a square.
    """

    until: int = option(at_least=1, at_most=MOST_EPOCHS)
    image_size: int = option(at_least=1, at_most=MOST_PIXELS)
    batch_size: int = option(at_least=1, at_most=MOST_IMAGES)
    lr_from: float = option(above=0)
    lr_to: float = option(above=0)
    min_scale: float | None = option(None, above=0, at_most=1)
    rectangular: bool = option(False)


@dataclass(frozen=True)
class PhasesConfig:
    """A schedule for streamed images in place of `lr` and `batch_size`; `batch_scale` multiplies batch and rate."""

    name: str = option("none")
    schedule: tuple[PhaseConfig, ...] = option((), needs=STREAMED)
    batch_scale: float = option(1.0, above=0, needs=PHASES)

    def at(self, epoch: int) -> PhaseConfig:
        """The phase that epoch (from 0) belongs to; the last one for every later epoch."""
        return next((phase for phase in self.schedule if epoch < phase.until), self.schedule[-1])

    def batch_of(self, phase: PhaseConfig) -> int:
        """The images in a step of `phase` over all devices."""
        return max(1, round(phase.batch_size * self.batch_scale))


@dataclass(frozen=True)
class RegularizerConfig:
    """What is added to the loss, times `strength` (the sibling papers' lambda and kappa); `alone`: to nothing.

    `coefficient`, `reduction`, `rho`, `conv_point` and `include_output` belong to the separation constraints;
    `norm_squared`, the mu^2 to which the squared norm of the parameters is drawn, to norm_bias.
    """

    name: str = option("none")
    strength: float = option(0.0, at_least=0, of=REGULARIZERS)
    alone: bool = option(False, of=REGULARIZERS)
    coefficient: float = option(0.5, above=0, of=REGULARIZERS)
    reduction: Literal["sum", "layer_mean", "balanced"] = option("sum", of=REGULARIZERS)
    rho: float = option(0.0, within="coefficient", of=REGULARIZERS)
    conv_point: Literal["image", "position"] = option("image", of=REGULARIZERS, needs=SPATIAL)
    include_output: bool = option(False, of=REGULARIZERS)
    norm_squared: float = option(0.0, at_least=0, of=REGULARIZERS)


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout after every activation; the rate falls linearly to 0 at the share `anneal` of the run (0: it stays)."""

    rate: float = option(0.0, at_least=0, below=1, needs=ACTIVATED)
    anneal: float = option(1.0, at_least=0, at_most=1, needs=positive("dropout.rate"))


@dataclass(frozen=True)
class AttackConfig:
    """Adversarial training by projected gradient ascent; sizes in units of pixels in [0, 1]."""

    name: str = option("none")
    steps: int = option(7, at_least=1, at_most=10_000, of=ATTACKS)
    step_size: float = option(2 / 255, above=0, of=ATTACKS)
    epsilon: float = option(8 / 255, above=0, of=ATTACKS)
    random_start: bool = option(True, of=ATTACKS)


@dataclass(frozen=True)
class CallbackConfig:
    """What happens to the weights after every `every_epochs` of the last `last_epochs` epochs.

    rank_min sets singular values below `threshold` to zero, rank_max lowers those above to it. `lr` is the rate of
    these epochs, a tenth of it after a fifth of them and again after a third (null: that of the schedule).
    `healing_epochs` are trained after the last time.
    """

    name: str = option("none")
    threshold: float = option(0.0, at_least=0, of=CALLBACKS)
    last_epochs: int = option(15, at_least=1, at_most=MOST_EPOCHS, of=CALLBACKS)
    every_epochs: int = option(1, at_least=1, at_most=MOST_EPOCHS, of=CALLBACKS)
    lr: float | None = option(None, above=0, of=CALLBACKS, needs=NO_PHASES)
    healing_epochs: int = option(0, at_least=0, at_most=MOST_EPOCHS, of=CALLBACKS)


@dataclass(frozen=True)
class FailureConfig:
    """A run has failed after `epochs` epochs in total at chance or worse, or when its loss is not finite."""

    epochs: int = option(5, at_least=0, at_most=MOST_EPOCHS)


@dataclass(frozen=True)
class DiagnosticsConfig:
    """At which epochs to measure dead units, dead points and Farkas margins, on how many training images.

    `measures` names what else to measure then (`farkas_exp.registry.MEASURES`); `lanczos_steps` belongs to the
    Hessian's eigenvalues, `ntk_images` to the tangent kernel. `train_eval` evaluates the training images after every
    epoch, as the authors' code does, beside the running means over the epoch's steps.
    """

    epochs: tuple[int, ...] = outside((), at_least=0, at_most=MOST_EPOCHS)
    images: int = outside(128, at_least=1, at_most=MOST_IMAGES)
    measures: tuple[str, ...] = outside(())
    lanczos_steps: int = outside(80, at_least=2, at_most=10_000)
    ntk_images: int = outside(25, at_least=1, at_most=10_000)
    train_eval: bool = outside(False)


@dataclass(frozen=True)
class CheckpointConfig:
    """How often to write a checkpoint, beside that of an interruption; 0 switches a trigger off.

    `keep` says what stays of the last one when the run is done: all, the weights alone, or none.
    """

    every_epochs: int = outside(1, at_least=0, at_most=MOST_EPOCHS)
    every_minutes: float = outside(5.0, at_least=0)
    keep: Literal["all", "weights", "none"] = outside("all")


@dataclass(frozen=True)
class WandbConfig:
    """The Weights & Biases mirror of the run directory.

    Null is what W&B's own variables say (WANDB_MODE, WANDB_PROJECT, ...), else offline and the project farkas-layers.
    """

    mode: WandbMode | None = outside(None)
    project: str | None = outside(None)
    entity: str | None = outside(None)
    group: str | None = outside(None)
    name: str | None = outside(None)
    tags: tuple[str, ...] = outside(())


@dataclass(frozen=True)
class Config:
    """One run."""

    model: ModelConfig
    lr: LRConfig
    dataset: DatasetConfig
    residual: ResidualConfig = ResidualConfig()
    normalization: NormalizationConfig = NormalizationConfig()
    weight: WeightConfig = WeightConfig()
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
    epochs: int = option(200, at_least=1, at_most=MOST_EPOCHS)
    batch_size: int = option(128, at_least=1, at_most=MOST_IMAGES, needs=NO_PHASES)  # over all devices
    precision: Literal["fp32", "tf32", "bf16"] = option("fp32")  # bf16 by autocast
    label_smoothing: float = option(0.0, at_least=0, below=1, needs=WITH_LOSS)
    debug: Literal["fast", "overfit", "anomaly"] | None = option(None)

    seed: int = outside(0, at_least=0, at_most=2**32 - 1)
    experiment: str | None = outside(None)
    arm: str | None = outside(None)
    plugins: tuple[str, ...] = outside(())  # modules of other packages that register networks, data sets, ...
    device: Literal["auto", "cpu", "cuda"] = outside("auto")
    compile: Literal["auto", "none", "graph", TorchCompile] = outside("auto")  # by `auto` a CUDA graph on a GPU
    packing: int = outside(1, at_least=1, at_most=1024)  # runs of a sweep at once on each GPU, or on the CPU's cores
    channels_last: bool = outside(True)
    runs_dir: str = outside("runs", is_path=True)
    retry_failed: bool = outside(False)  # whether failed and crashed runs are trained again
    fail_fast: bool = outside(False)  # whether a crash ends the sweep
    progress: Literal["auto", "live", "plain", "none"] = outside("auto")
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    wandb: WandbConfig = WandbConfig()
    tracking: tuple[Tracker, ...] = outside(())  # further mirrors of the metrics
