"""Values of the right type that no network, dataset or trainer could make sense of."""

from collections.abc import Callable

from farkas_exp.config.schema import Config
from farkas_exp.errors import UserError


def check_ranges(config: Config) -> None:
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
    _check_streaming(config, require)
    require(0 <= config.label_smoothing < 1, "label_smoothing", config.label_smoothing, "in [0, 1)")


def _check_streaming(config: Config, require: Callable[[bool, str, object, str], None]) -> None:
    """The phases, and what else is for streamed images."""
    phases, dataset = config.phases, config.dataset
    named = (phases.name == "none") == (not phases.schedule)
    require(named, "phases.name", phases.name, "none without a schedule, and another name with one")
    require(phases.batch_scale > 0, "phases.batch_scale", phases.batch_scale, "positive")
    scaled = bool(phases.schedule) or phases.batch_scale == 1
    require(scaled, "phases.batch_scale", phases.batch_scale, "1 without phases (batch_size and lr.value say it)")
    require(dataset.workers is None or dataset.workers >= 0, "dataset.workers", dataset.workers, "at least 0")
    require(min(dataset.copies, default=1) >= 1, "dataset.copies", list(dataset.copies), "a list of sizes from 1 on")
    share, right = config.augmentation.min_scale, "in (0, 1]"
    require(share is None or 0 < share <= 1, "augmentation.min_scale", share, right)
    begin = 0
    for number, phase in enumerate(phases.schedule):
        where = f"phases.schedule[{number}]"
        require(phase.until > begin, f"{where}.until", phase.until, f"at least {begin + 1}")
        require(phase.image_size >= 1, f"{where}.image_size", phase.image_size, "at least 1")
        require(phase.batch_size >= 1, f"{where}.batch_size", phase.batch_size, "at least 1")
        require(phase.lr_from > 0, f"{where}.lr_from", phase.lr_from, "positive")
        require(phase.lr_to > 0, f"{where}.lr_to", phase.lr_to, "positive")
        require(phase.min_scale is None or 0 < phase.min_scale <= 1, f"{where}.min_scale", phase.min_scale, right)
        begin = phase.until
    if phases.schedule:
        least = f"at most {begin}, where the phases end (fewer stop early on the same schedule)"
        require(config.epochs <= begin, "epochs", config.epochs, least)
        require(dataset.image_size is None, "dataset.image_size", dataset.image_size, "null: the phases say it")


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
