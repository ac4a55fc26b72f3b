"""Batches of mixed images with mixed labels, by torchvision's transforms."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from farkas_exp.config import Config
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import Method, Training


class Mixing(Method):
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), each batch by one of those requested.

    A batch is mixed with itself, shifted by one image: x <- l x + (1 - l) x', l from Beta(alpha, alpha), or a rectangle
    of x' with the share 1 - l of the area; the labels become probabilities, l for that of x. The random numbers are
    those of the training, which checkpoints keep.
    """

    mixes = True

    @classmethod
    def refuses(cls, config: Config, world_size: int) -> None:
        sizes = [config.phases.batch_of(phase) for phase in config.phases.schedule] or [config.batch_size]
        if min(sizes) // world_size == 1:
            kind = "mixup" if config.augmentation.mixup else "cutmix"
            raise UserError(
                f"augmentation.{kind}: a batch of 1 image a process has none to mix it with; use a larger batch, or"
                f" augmentation.{kind}=0"
            )

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        from torchvision.transforms import v2  # a second of imports, for those who ask for it

        own, classes = self.config.augmentation, training.data.info.num_classes
        kinds: dict[Any, float] = {v2.MixUp: own.mixup, v2.CutMix: own.cutmix}
        chosen = [kind(num_classes=classes, alpha=alpha) for kind, alpha in kinds.items() if alpha]
        self._mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.RandomChoice(chosen)

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed images and the probabilities of their classes, (N, K)."""
        return self._mix(images, labels)
