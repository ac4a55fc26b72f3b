"""Checks of values that are right one by one, but not together."""

from farkas_exp.config.options import require
from farkas_exp.config.schema import Config
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import NETWORKS, NORMALIZATIONS

MOST_WEIGHTS = 10_000_000_000
"""About 40 GB in single precision, and four times that with gradients and momentum."""
LEAST_ALPHA = 0.01
"""Of a Beta distribution; for smaller ones PyTorch draws 1/2 again and again, where it should draw 0 or 1."""
MOST_BYTES = 2**36
"""Of synthetic images."""


def check_pairs(config: Config) -> None:
    """Check what concerns more than one key."""
    _check_phases(config)
    _check_sizes(config)
    require(config.lr.warmup <= config.epochs, "lr.warmup", config.lr.warmup, f"at most {config.epochs}, the epochs")
    for key in ("mixup", "cutmix"):
        alpha = getattr(config.augmentation, key)
        require(not 0 < alpha < LEAST_ALPHA, f"augmentation.{key}", alpha, f"0 (without), or at least {LEAST_ALPHA}")
    if config.batch_size == 1 and not config.phases.schedule:
        norm = NORMALIZATIONS.get(config.normalization.name)
        of_batch = norm is not None and norm.of_batch
        asked = {f"normalization={config.normalization.name}": of_batch, "model.head_bn=true": config.model.head_bn}
        for key, used in asked.items():
            if used:
                raise UserError(f"batch_size: 1 image has no statistics of a batch; with {key} it must be at least 2")


def _check_phases(config: Config) -> None:
    phases = config.phases
    named = (phases.name == "none") == (not phases.schedule)
    require(named, "phases.name", phases.name, "none without a schedule, and another name with one")
    begin = 0
    for number, phase in enumerate(phases.schedule):
        require(phase.until > begin, f"phases.schedule[{number}].until", phase.until, f"at least {begin + 1}")
        begin = phase.until
    if phases.schedule:
        least = f"at most {begin}, where the phases end (fewer stop early on the same schedule)"
        require(config.epochs <= begin, "epochs", config.epochs, least)
    network, sizes = NETWORKS.get(config.model.name), sorted({phase.image_size for phase in phases.schedule})
    if network and not network.spatial and (len(sizes) > 1 or any(phase.rectangular for phase in phases.schedule)):
        shown = ", ".join(map(str, sizes)) + (" pixels" if len(sizes) > 1 else " pixels, and rectangular ones")
        raise UserError(f"phases.schedule: {network.name} is built for squares of one size, and images have {shown}")


def _check_sizes(config: Config) -> None:
    """Refuse a network or synthetic images that fit no machine's memory."""
    model, dataset = config.model, config.dataset
    layers = (model.depth or 1) + sum(model.blocks or ())
    key, width = max(("model.width", model.width or 1), ("model.widths", max(model.widths or (1,))), key=lambda w: w[1])
    if 9 * layers * width**2 > MOST_WEIGHTS:
        raise UserError(
            f"{key}: {layers} layers of width {width} have some {9 * layers * width**2:.0e} weights; choose fewer than"
            f" {MOST_WEIGHTS:.0e}"
        )
    if dataset.name == "synthetic":
        count, side = (dataset.train_size or 1) + (dataset.test_size or 1), dataset.image_size or 1
        require(3 * count * side**2 <= MOST_BYTES, "dataset.train_size", count, f"fewer images of {side}x{side} pixels")
