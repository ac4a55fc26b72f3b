"""What a dataset is to the trainer (`ImageData`), and what its loader returns (`Arrays`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import warn
from farkas_exp.machine.processes import ALONE, Processes
from farkas_exp.registry import DATASETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Batch: TypeAlias = "tuple[Tensor, Tensor]"


@dataclass(frozen=True)
class DataInfo:
    """The facts of a dataset as a run sees it, after `train_limit` and `validation`.

    Attributes:
        name: in messages; of an image folder its label or the folder's name.
        class_names: in the order of the labels.
        image_shape: (C, H, W).
        test_size: images in the evaluation set, which is the test set or the held-out part of the training set.
        fingerprint: 16 hex digits that change with any pixel or label of either set (streamed images: with any file's
            name, size or label).
        files: fingerprints of the files (`data.files.prints`), if any.
        top5: whether to report the top-5 error, too: for streamed images of more than five classes.
        mean: what `dataset.normalize` subtracts from each channel of values in [0, 1]; empty without it.
        std: what it divides by then.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    fingerprint: str
    files: Mapping[str, str] = field(default_factory=dict)
    top5: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class ImageData(Protocol):
    """Batches of (images, labels): float32 images (N, C, H, W) and int64 labels (N,), both on the run's device."""

    info: DataInfo

    def steps_in(self, epoch: int) -> int:
        """Full training batches in an epoch (from 0)."""
        ...

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The augmented batches of `epoch` (from 0) in its own random order, from batch `start_step` on.

        One of several processes gets its `batch_share` of each batch: rows rank * share to (rank + 1) * share.
        """
        ...

    def test_batches(self, epoch: int | None = None) -> Iterator[Batch]:
        """The whole evaluation set in a fixed order, each image once, not augmented.

        If the image size changes during a run, the images have the size of `epoch` (default: the last).
        """
        ...

    def fixed_batch(self, n: int) -> Batch:
        """The first `n` training images (or all) of a fixed order, the same for every seed and rank; not augmented."""
        ...

    def close(self) -> None:
        """Release processes and the like; the data can be used again."""
        ...


@dataclass(frozen=True)
class Arrays:
    """Both sets in memory: images (N, H, W, C), uint8 for pixels or float32 for points, and int64 labels (N,).

    `files` are the fingerprints of their files, if any, and `left_out` says in a line which files are not used.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: "Tensor"
    train_labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"
    files: Mapping[str, str] = field(default_factory=dict)
    left_out: str | None = None


@dataclass(frozen=True)
class Batching:
    """How images become batches.

    Attributes:
        size: the images of a training batch over all processes.
        seed: decides, with the epoch, all that is random in an epoch.
        processes: how many processes share each batch, and which of them this is.
        trains: whether there must be training images for a batch.
    """

    size: int
    seed: int
    device: "torch.device | str" = "cpu"
    channels_last: bool = True
    processes: Processes = ALONE
    trains: bool = True


def batch_share(batch_size: int, world_size: int, key: str = "batch_size") -> int:
    """The rows of each training batch for each of `world_size` processes."""
    share, rest = divmod(batch_size, world_size)
    if rest or not share:
        raise UserError(
            f"{key}: {batch_size} cannot be shared equally by {world_size} processes; choose a multiple of"
            f" {world_size}, or another number of processes"
        )
    return share


def test_share(count: int, rank: int, world_size: int) -> range:
    """The images of an evaluation set of `count` for process `rank`: over all processes each image once.

    The shares differ by at most one image; some are empty if there are more processes than images.
    """
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def say_left_out(line: str | None) -> None:
    """Warn of unused files of a data set, if any."""
    if line:
        warn(f"warning: dataset.root: {line}")


def check_least(config: DatasetConfig, **sizes: tuple[int, int]) -> None:
    """Raise a `UserError` for a size below the least one, given as (size, least) by the name of the option."""
    for name, (value, least) in sizes.items():
        if value < least:
            raise UserError(f"dataset.{name}: {value} is too few for {config.name}; choose at least {least}")


def check_enough(key: str, wanted: int, count: int, name: str, hint: str = "") -> None:
    """Check that a training set of `count` images has as many as the value of `key` asks for."""
    if wanted > count:
        raise UserError(
            f"{key}: {wanted} is larger than the training set of {name} ({count} images); choose at most {count}{hint}"
        )


def chosen(config: DatasetConfig, option: str) -> Any:
    """The value of an option, or the dataset's own default if it is null."""
    value = getattr(config, option)
    return DATASETS[config.name].options[option] if value is None else value
