"""Small images that stay on the device of the run: shuffled, augmented and scaled there, a batch at a time.

Nothing in an epoch waits for the device: its random choices are drawn at once, on the CPU by a generator of their own,
and moved together.
"""

import hashlib
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from farkas_exp.config.schema import AugmentationConfig
from farkas_exp.data.augmentation import EpochPlan, crop_windows, cutout_, cutout_squares, plan_epoch
from farkas_exp.data.base import Arrays, Batch, Batching, DataInfo, ImageData, batch_share, check_enough, test_share
from farkas_exp.data.subset import fixed_order
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed

NO_AUGMENTATION = AugmentationConfig(crop_padding=0, flip=False, cutout=0)

# Bytes of float32 images. Several batches are prepared at once: fewer kernel launches on a GPU, fewer calls on a CPU,
# where a block should stay in the cache.
BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 64 * 2**20}
# Evaluation needs no gradients, so its batches may be large.
TEST_BATCH_VALUES = 1000 * 3 * 32 * 32


class DeviceData(ImageData):
    """Data that are resident on the device: uint8 pixels, or float32 points.

    Batches are float32 in [0, 1], or have mean 0 and standard deviation 1 per channel over the training set
    (`normalize`). Training images are cropped, flipped and cut out, in this order; padding and zero-filled cutout are
    black pixels before all else. Points are never augmented. The last incomplete batch is left out; a process gets its
    share of every batch and of the evaluation set.
    """

    def __init__(
        self, arrays: Arrays, augmentation: AugmentationConfig, batching: Batching, normalize: bool = False
    ) -> None:
        count, height, width, channels = arrays.train_images.shape
        pixels = arrays.train_images.dtype == torch.uint8
        self._augmentation = augmentation if pixels else NO_AUGMENTATION
        _check(arrays.name, count, height, width, self._augmentation, batching.size if batching.trains else 1)
        mean, std = _standardisation(arrays.train_images) if normalize else ((), ())
        self.info = DataInfo(
            name=arrays.name,
            num_classes=len(arrays.class_names),
            class_names=arrays.class_names,
            image_shape=(channels, height, width),
            train_size=count,
            test_size=len(arrays.test_labels),
            fingerprint=fingerprint(arrays),
            files=arrays.files,
            mean=mean,
            std=std,
        )
        self._batching, self._device = batching, torch.device(batching.device)
        processes = batching.processes
        self._share = batch_share(batching.size, processes.world_size)
        self._range = 255.0 if pixels else 1.0
        self._shift_scale = [torch.tensor(values * width, device=self._device) for values in (mean, std)]
        images = arrays.train_images.to(self._device)
        self._windows = crop_windows(images, self._augmentation.crop_padding, self._augmentation.flip)
        self._labels = arrays.train_labels.to(self._device)
        self._squares = cutout_squares(height, width, channels, self._augmentation.cutout, self._device)
        own = test_share(self.info.test_size, processes.rank, processes.world_size)
        self._test_images = arrays.test_images[own.start : own.stop].to(self._device).flatten(2)
        self._test_labels = arrays.test_labels[own.start : own.stop].to(self._device)

    def steps_in(self, epoch: int) -> int:
        return self.info.train_size // self._batching.size

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The augmented batches of `epoch` (from 0), from batch `start_step` on.

        A function of (seed, epoch): skipping the first batches does not change the others, and the shares of all
        processes together are the batches of a single one.
        """
        plan = self._own_rows(self.plan(epoch)).to(self._device)
        labels = self._labels[plan.order]
        positions = self._windows.positions(plan.order, plan.crop_y, plan.crop_x, plan.flip)
        size, stop = self._share, self.steps_in(epoch) * self._share
        budget = BLOCK_BYTES.get(self._device.type, BLOCK_BYTES["cuda"])
        block = size * max(1, budget // (4 * size * self._windows.view[0].numel()))
        # the bytes of a block are reused; its floats belong to the caller
        scratch = self._windows.view.new_empty(min(block, stop), *self._windows.view.shape[1:])
        for start in range(start_step * size, stop, block):
            part = slice(start, min(start + block, stop))
            pixels = scratch[: part.stop - start]
            torch.index_select(self._windows.view, 0, positions[part], out=pixels)
            images = self._finish(self._cut_out(pixels, plan.center_y[part], plan.center_x[part]))
            for first in range(0, len(images), size):
                yield images[first : first + size], labels[start + first : start + first + size]

    def test_batches(self, epoch: int | None = None) -> Iterator[Batch]:
        """This process's share of the evaluation set in a fixed order, in batches of nearly equal size."""
        count = len(self._test_labels)
        if not count:
            return
        channels, height, width = self.info.image_shape
        target = max(1, TEST_BATCH_VALUES // (channels * height * width))
        size = -(-count // -(-count // target))
        for start in range(0, count, size):
            images = self._test_images[start : start + size].to(torch.float32, copy=True)
            yield self._finish(images), self._test_labels[start : start + size]

    def fixed_batch(self, n: int) -> Batch:
        index = torch.from_numpy(fixed_order(self.info.train_size, "fixed batch")[:n]).to(self._device)
        images = self._windows.view.index_select(0, self._windows.originals(index)).float()
        return self._finish(images), self._labels[index]

    def close(self) -> None:
        """Do nothing."""

    def plan(self, epoch: int) -> EpochPlan:
        """The random choices of `epoch`, on the CPU."""
        generator = torch.Generator().manual_seed(derive_seed(self._batching.seed, "train", epoch))
        _, height, width = self.info.image_shape
        return plan_epoch(self.info.train_size, height, width, self._augmentation, generator)

    def _own_rows(self, plan: EpochPlan) -> EpochPlan:
        """The choices for this process's rows of every batch."""
        if self._share == self._batching.size:
            return plan
        first = self._batching.processes.rank * self._share
        rows = torch.arange(self.steps_in(0) * self._batching.size).view(-1, self._batching.size)
        return plan.rows(rows[:, first : first + self._share].flatten())

    def _cut_out(self, pixels: Tensor, center_y: Tensor, center_x: Tensor) -> Tensor:
        values = pixels.to(torch.float32, copy=True)
        if not self._augmentation.cutout:
            return values
        # inside of the trainer's loop autocast would round the sums to bf16
        with torch.autocast(self._device.type, enabled=False):
            return cutout_(
                values, pixels, center_y, center_x, self._squares, fill_mean=self._augmentation.cutout_fill == "mean",
                whole=self._augmentation.cutout_variant == "authors",
            )  # fmt: skip

    def _finish(self, images: Tensor) -> Tensor:
        """Values (N, H, W * C), overwritten, as scaled images (N, C, H, W)."""
        channels, height, width = self.info.image_shape
        if self._range != 1:
            images.div_(self._range)
        if self.info.mean:
            mean, std = self._shift_scale
            images.sub_(mean).div_(std)
        images = images.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return images if self._batching.channels_last else images.contiguous()


def _standardisation(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of values in [0, 1]; a constant channel gets 1."""
    means, stds = [], []
    for channel in range(images.shape[3]):
        values = images[..., channel].flatten()
        if images.dtype == torch.uint8:
            # from the counts of the 256 values: exact, and without a float copy of the dataset
            weights = torch.bincount(values, minlength=256).cpu().double() / values.numel()
            levels = torch.arange(256, dtype=torch.float64) / 255
            mean = (weights * levels).sum()
            std = (weights * (levels - mean) ** 2).sum().sqrt()
        else:
            mean, std = values.double().mean(), values.double().std(correction=0)
        means.append(float(mean))
        stds.append(float(std) or 1.0)
    return tuple(means), tuple(stds)


def fingerprint(arrays: Arrays) -> str:
    """16 hex digits that change with any pixel, label or class name of either set."""
    digest = hashlib.sha256()
    for images, labels in ((arrays.train_images, arrays.train_labels), (arrays.test_images, arrays.test_labels)):
        checksum = zlib.crc32(images.cpu().contiguous().numpy().data.cast("B"))
        digest.update(f"{images.dtype} {tuple(images.shape)} {checksum:08x}".encode())
        digest.update(labels.cpu().numpy().tobytes())
    digest.update("\0".join(arrays.class_names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _check(name: str, count: int, height: int, width: int, augmentation: AugmentationConfig, batch_size: int) -> None:
    check_enough("batch_size", batch_size, count, name)
    side = min(height, width)
    if augmentation.crop_padding >= side:
        raise UserError(
            f"augmentation.crop_padding: {augmentation.crop_padding} would crop whole images of {name}"
            f" ({height}x{width} pixels) away; choose at most {side - 1} (0: off)"
        )
    if augmentation.cutout >= 2 * max(height, width):
        raise UserError(
            f"augmentation.cutout: {augmentation.cutout} would always erase whole images of {name}"
            f" ({height}x{width} pixels); choose less than {2 * max(height, width)} (0: off)"
        )
