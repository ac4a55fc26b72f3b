"""A data set cut to its first batches, to look for mistakes (`debug`)."""

from collections.abc import Iterator
from itertools import islice

from farkas_exp.data.base import Batch, ImageData

BATCHES = {"fast": 2, "overfit": 1}
"""How many batches there are of everything."""


class FewBatches(ImageData):
    """The first batches of each epoch and of the evaluation set.

    `repeated`: every epoch has the batches of the first one, with the same augmentation.
    """

    def __init__(self, data: ImageData, batches: int, repeated: bool) -> None:
        self._data, self._batches, self._repeated = data, batches, repeated
        self.info = data.info

    def steps_in(self, epoch: int) -> int:
        return min(self._batches, self._data.steps_in(self._of(epoch)))

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        yield from islice(self._data.train_batches(self._of(epoch), start_step), self._batches - start_step)

    def test_batches(self, epoch: int | None = None) -> Iterator[Batch]:
        yield from islice(self._data.test_batches(epoch), self._batches)

    def fixed_batch(self, n: int) -> Batch:
        return self._data.fixed_batch(n)

    def close(self) -> None:
        self._data.close()

    def _of(self, epoch: int) -> int:
        return 0 if self._repeated else epoch


def debugged(data: ImageData, debug: str | None) -> ImageData:
    """The data as `debug` wants them."""
    return FewBatches(data, BATCHES[debug], debug == "overfit") if debug in BATCHES else data
