"""RankMin and RankMax: singular values cut off after an epoch ("Truth or backpropaganda?", A.7)."""

from farkas_exp.config import Config
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.spectrum import PROJECTIONS, project_ranks
from farkas_exp.methods.base import Method, Training, register


@register
class RankProjection(Method):
    """Projects the weights after the epochs that are due."""

    group, names = "callback", tuple(PROJECTIONS)

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.images = training.data.fixed_batch(2)[0]  # for the sizes of the maps only

    @classmethod
    def refuses(cls, config: Config, world_size: int) -> None:
        """See `Method`."""
        if not config.callback.threshold:
            raise UserError(
                f"callback.threshold: {config.callback.name} needs the singular value at which it cuts; give a positive"
                " number"
            )

    def after_epoch(self, epoch: int) -> bool:
        """Project in the last epochs, every so many."""
        own, left = self.config.callback, self.config.epochs - epoch
        is_due = left <= own.last_epochs and (own.last_epochs - left) % own.every_epochs == 0
        if is_due:
            project_ranks(self.model, self.images, own.name, own.threshold)
        return is_due
