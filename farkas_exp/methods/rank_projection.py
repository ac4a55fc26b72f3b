"""What may be done to the weights after an epoch, by name: RankMin and RankMax ("Truth or backpropaganda?", A.7)."""

from torch import nn

from farkas_exp.config import Config
from farkas_exp.data import ImageData
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.measures.spectrum import PROJECTIONS, project_ranks

CALLBACKS = ("none", *PROJECTIONS)


class Callback:
    """Projects the weights of `model` after the epochs that are due."""

    def __init__(self, config: Config, model: nn.Module, data: ImageData) -> None:
        self.config, self.model, self.epochs = config.callback, model, config.epochs
        self.images = data.fixed_batch(2)[0]  # for the sizes of the maps only

    def __call__(self, epoch: int) -> None:
        """To be called after the training of `epoch` (from 0)."""
        left = self.epochs - epoch
        if left <= self.config.last_epochs and (self.config.last_epochs - left) % self.config.every_epochs == 0:
            project_ranks(self.model, self.images, self.config.name, self.config.threshold)


def build_callback(config: Config, model: nn.Module, data: ImageData) -> Callback | None:
    """The callback of `config`, None for `none`.

    Raises:
        UserError: an unknown name, or no threshold.
    """
    name = config.callback.name
    if name not in CALLBACKS:
        raise unknown("callback.name", name, CALLBACKS)
    if name == "none":
        return None
    if not config.callback.threshold:
        raise UserError(f"callback.threshold: {name} needs the singular value at which it cuts; give a positive number")
    return Callback(config, model, data)
