"""The typed schema of a run, and the strict check that every configuration passes before anything happens.

Hydra composes YAML files and command-line overrides into a nested mapping; `parse` turns that mapping into a frozen
`Config`. An unknown key (also one added with Hydra's `+`), a missing value or a wrong type is a `UserError` that
gives the full path of the key and what would be right.

Each field says whether it belongs to the identity of a run (see `identity.py`): a field made with `outside()` does
not decide the numbers of a run and is left out of its hash. A new field that keeps its default leaves every known
hash as it is.

This module imports neither torch nor Hydra, so that `--help` and the skipping of finished runs stay fast.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from farkas_exp.errors import UserError, unknown


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
    """Random crop with zero padding, horizontal flip, and cutout (its square filled with its own mean colour)."""

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 16
    cutout_fill: Literal["mean", "zero"] = "mean"


@dataclass(frozen=True)
class DatasetConfig:
    """The images. `validation` > 0 holds out that part of the training set and evaluates on it, not on the test set.

    `label` names the data of an image folder in the identity of a run (default: the name of the folder), so that
    moving the folder does not make it another experiment.
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

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "farkas-layers"
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


def parse(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping against the schema and return the frozen `Config`.

    Raises:
        UserError: an unknown key, a missing value, a value of the wrong type or out of its range.
    """
    config = _build(Config, values, "")
    _check_ranges(config)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """The nested plain form of a config (lists for tuples): what is written into a run directory."""
    plain = dataclasses.asdict(config)

    def tidy(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tidy(inner) for key, inner in value.items()}
        return [tidy(inner) for inner in value] if isinstance(value, (tuple, list)) else value

    return tidy(plain)


def schema_defaults() -> dict[str, Any]:
    """Every key of the schema with its default ("???" where it has none): what Hydra composes on top of."""

    def defaults(schema: Any) -> dict[str, Any]:
        hints = typing.get_type_hints(schema)
        values = {}
        for f in dataclasses.fields(schema):
            if dataclasses.is_dataclass(hints[f.name]):
                values[f.name] = defaults(hints[f.name])
            elif f.default is dataclasses.MISSING:
                values[f.name] = "???"
            else:
                values[f.name] = list(f.default) if isinstance(f.default, tuple) else f.default
        return values

    return defaults(Config)


def unknown_key(path: str) -> UserError:
    """The error for a key that the schema does not have: the full path and the nearest valid key."""
    schema: Any = Config
    parts = path.split(".")
    for depth, part in enumerate(parts):
        hints = typing.get_type_hints(schema)
        if part not in hints or (depth + 1 < len(parts) and not dataclasses.is_dataclass(hints[part])):
            return unknown(path, part, hints)
        schema = hints[part]
    return UserError(f"{path}: cannot be changed here")


def _build(schema: type, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{path or 'config'}: expected a group of keys, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise unknown(where, key, fields)
        arguments[key] = _convert(hints[key], value, where)
    for name, f in fields.items():
        if name not in arguments and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            where = f"{path}.{name}" if path else name
            raise UserError(f"{where}: missing; give it a value on the command line ({where}=...)")
    return schema(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or a `UserError` that names the key, the value and the type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if isinstance(value, str) and value == "???":
        raise UserError(f"{where}: missing; give it a value on the command line ({where}=...)")
    if origin is Literal:
        if value not in args:
            raise unknown(where, value, map(str, args))
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list such as [1,2,3], got {value!r}")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {_TYPE_NAMES[hint]}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value!r}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _check_ranges(config: Config) -> None:
    """Values that no network, dataset or trainer could make sense of."""

    def require(ok: bool, where: str, value: object, right: str) -> None:
        if not ok:
            raise UserError(f"{where}: {value!r} is out of range; it must be {right}")

    require(config.packing >= 1, "packing", config.packing, "at least 1")
    require(config.epochs >= 1, "epochs", config.epochs, "at least 1")
    require(config.batch_size >= 1, "batch_size", config.batch_size, "at least 1")
    require(0 <= config.seed < 2**32, "seed", config.seed, "between 0 and 2**32 - 1")
    require(config.lr.value > 0, "lr.value", config.lr.value, "positive")
    require(config.lr.gamma > 0, "lr.gamma", config.lr.gamma, "positive")
    increasing = list(config.lr.milestones) == sorted({epoch for epoch in config.lr.milestones if epoch >= 0})
    require(increasing, "lr.milestones", list(config.lr.milestones), "strictly increasing, from 0 on")
    for where, value in (
        ("lr.reference_epochs", config.lr.reference_epochs),
        ("dataset.train_limit", config.dataset.train_limit),
        ("dataset.image_size", config.dataset.image_size),
    ):
        require(value is None or value >= 1, where, value, "at least 1")
    for where, sizes in (("model.blocks", config.model.blocks), ("model.widths", config.model.widths)):
        require(sizes is None or min(sizes, default=0) >= 1, where, sizes, "a list of numbers from 1 on")
    require(0 <= config.optimizer.momentum < 1, "optimizer.momentum", config.optimizer.momentum, "in [0, 1)")
    require(config.optimizer.weight_decay >= 0, "optimizer.weight_decay", config.optimizer.weight_decay, "at least 0")
    require(config.aggregation.margin >= 0, "aggregation.margin", config.aggregation.margin, "at least 0")
    require(config.residual.alpha > 0, "residual.alpha", config.residual.alpha, "positive")
    require(config.residual.beta > 0, "residual.beta", config.residual.beta, "positive")
    require(config.normalization.groups >= 1, "normalization.groups", config.normalization.groups, "at least 1")
    require(
        config.augmentation.crop_padding >= 0,
        "augmentation.crop_padding",
        config.augmentation.crop_padding,
        "at least 0",
    )
    require(config.augmentation.cutout >= 0, "augmentation.cutout", config.augmentation.cutout, "at least 0 (0: off)")
    require(0 <= config.dataset.validation < 1, "dataset.validation", config.dataset.validation, "in [0, 1)")
    require(config.failure.epochs >= 0, "failure.epochs", config.failure.epochs, "at least 0 (0: off)")
    epochs = config.diagnostics.epochs
    require(min(epochs, default=0) >= 0, "diagnostics.epochs", list(epochs), "a list of numbers from 0 on")
    every = config.checkpoint
    require(every.every_epochs >= 0, "checkpoint.every_epochs", every.every_epochs, "at least 0 (0: off)")
    require(every.every_minutes >= 0, "checkpoint.every_minutes", every.every_minutes, "at least 0 (0: off)")
    require(bool(config.runs_dir.strip()), "runs_dir", config.runs_dir, "the name of a folder")
    require(config.diagnostics.images >= 1, "diagnostics.images", config.diagnostics.images, "at least 1")
    _check_siblings(config, require)
    require(0 <= config.label_smoothing < 1, "label_smoothing", config.label_smoothing, "in [0, 1)")


def _check_siblings(config: Config, require: Callable[[bool, str, object, str], None]) -> None:
    """The ranges of the groups that came with the sibling methods."""
    regularizer, dropout, attack, callback = config.regularizer, config.dropout, config.attack, config.callback
    require(regularizer.strength >= 0, "regularizer.strength", regularizer.strength, "at least 0")
    require(regularizer.coefficient > 0, "regularizer.coefficient", regularizer.coefficient, "positive")
    limit = regularizer.coefficient
    require(abs(regularizer.rho) <= limit, "regularizer.rho", regularizer.rho, f"between -{limit:g} and {limit:g}")
    require(regularizer.norm_squared >= 0, "regularizer.norm_squared", regularizer.norm_squared, "at least 0")
    require(0 <= dropout.rate < 1, "dropout.rate", dropout.rate, "in [0, 1)")
    require(0 <= dropout.anneal <= 1, "dropout.anneal", dropout.anneal, "in [0, 1] (0: a constant rate)")
    require(attack.steps >= 1, "attack.steps", attack.steps, "at least 1")
    require(attack.step_size > 0, "attack.step_size", attack.step_size, "positive")
    require(attack.epsilon > 0, "attack.epsilon", attack.epsilon, "positive")
    require(callback.threshold >= 0, "callback.threshold", callback.threshold, "at least 0")
    require(callback.last_epochs >= 1, "callback.last_epochs", callback.last_epochs, "at least 1")
    require(callback.every_epochs >= 1, "callback.every_epochs", callback.every_epochs, "at least 1")
    diagnostics = config.diagnostics
    require(diagnostics.lanczos_steps >= 2, "diagnostics.lanczos_steps", diagnostics.lanczos_steps, "at least 2")
    require(diagnostics.ntk_images >= 1, "diagnostics.ntk_images", diagnostics.ntk_images, "at least 1")
    require((config.dataset.noise or 0) >= 0, "dataset.noise", config.dataset.noise, "at least 0")
