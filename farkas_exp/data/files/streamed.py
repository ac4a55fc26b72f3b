"""Images that stay in their files, and are decoded during training at the size of the phase.

Every random choice about an image is a function of (seed, epoch, the image's position in the epoch), so it depends
neither on the decoding processes nor on how ranks share a batch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from farkas_exp.config.folders import name_of
from farkas_exp.config.schema import AugmentationConfig, DatasetConfig, PhaseConfig, PhasesConfig
from farkas_exp.data.base import (
    Batch,
    Batching,
    DataInfo,
    ImageData,
    batch_share,
    check_enough,
    say_left_out,
    test_share,
)
from farkas_exp.data.files.cache import CACHE_FOLDER, read_cached, write_cached
from farkas_exp.data.files.copies import copies_in_use, copy_for, copy_root, list_copy
from farkas_exp.data.files.decode import CentreCrop, RandomCrop, View, image_sizes
from farkas_exp.data.files.listing import ImageFiles, ImageSets, list_images
from farkas_exp.data.files.pool import DecodingPool, Request, workers_for
from farkas_exp.data.files.prints import Prints, prints_of_sets
from farkas_exp.data.subset import fixed_order, held_out, limited
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pixels in [0, 1], by channel, as in torchvision and DAWNBench."""
MIN_SCALE = 0.08
SHAPE_STEP = 8
"""The longer side of a rectangular evaluation batch is a multiple of this (DAWNBench's imagenet18)."""
FIXED_PART = 256
"""Images of a fixed batch to decode at once."""


class StreamedData(ImageData):
    """Data whose images are decoded when they are needed; `DeviceData` says what holds for both.

    The training crops take `flip` and `min_scale` of the augmentation. Phases give image size and global batch by
    epoch; without a schedule they are `dataset.image_size` and `batch_size`.
    """

    def __init__(
        self, dataset: DatasetConfig, augmentation: AugmentationConfig, batching: Batching, phases: PhasesConfig
    ) -> None:
        self._phases = _single_phase(dataset, batching.size) if not phases.schedule else phases
        self._dataset, self._augmentation = dataset, augmentation
        self._batching, self._device = batching, torch.device(batching.device)
        self._rank, self._world_size = batching.processes.rank, batching.processes.world_size
        sets, files = _listed(dataset, self._phases)
        if batching.processes.is_first:
            say_left_out(sets.left_out)
        self._sets = sets
        classes, least = len(sets.classes), min(phase.image_size for phase in self._phases.schedule)
        self.info = DataInfo(
            name=name_of(dataset),
            num_classes=classes,
            class_names=sets.classes,
            image_shape=(3, least, least),
            train_size=len(sets.train),
            test_size=len(sets.test),
            fingerprint=sets.fingerprint(),
            files=files,
            top5=classes > 5,
            mean=MEAN if dataset.normalize else (),
            std=STD if dataset.normalize else (),
        )
        self._check_batches(bool(phases.schedule))
        self._train_labels, self._test_labels = (torch.from_numpy(s.labels) for s in (sets.train, sets.test))
        scale, shift = (STD, MEAN) if dataset.normalize else ((1.0,) * 3, (0.0,) * 3)
        self._shift, self._scale = (255 * torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (shift, scale))
        self._pool = DecodingPool(workers_for(dataset.workers, self._world_size))
        rectangular = any(phase.rectangular for phase in self._phases.schedule)
        self._aspects = self._test_aspects() if rectangular else np.empty(0)

    def steps_in(self, epoch: int) -> int:
        return self.info.train_size // self._phases.batch_of(self._phases.at(epoch))

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """This rank's rows of the augmented batches of `epoch` (from 0), from batch `start_step` on."""
        phase = self._phases.at(epoch)
        batch = self._phases.batch_of(phase)
        share = batch_share(batch, self._world_size)
        generator = torch.Generator().manual_seed(derive_seed(self._batching.seed, "train", epoch))
        order = torch.randperm(self.info.train_size, generator=generator)
        seeds = torch.randint(2**62, (self.info.train_size,), generator=generator)
        files = self._files(phase)[0]
        size = phase.image_size
        least = next(s for s in (phase.min_scale, self._augmentation.min_scale, MIN_SCALE) if s is not None)

        def rows(step: int) -> slice:
            start = step * batch + self._rank * share
            return slice(start, start + share)

        def request(step: int) -> Request:
            drawn = seeds[rows(step)].tolist()
            views: list[View] = [RandomCrop(seed, least, self._augmentation.flip) for seed in drawn]
            return self._request(files, order[rows(step)].tolist(), views, size, size)

        steps = range(start_step, self.steps_in(epoch))
        pixels = self._pool.batches(map(request, steps), 3 * share * size * size)
        return self._moved(pixels, (self._train_labels[order[rows(step)]] for step in steps))

    def test_batches(self, epoch: int | None = None) -> Iterator[Batch]:
        """This rank's share of the evaluation set at the image size of `epoch` (default: the last).

        Over all ranks each image comes once, without padding; the shares differ by at most one image a batch.
        """
        phase = self._phases.schedule[-1] if epoch is None else self._phases.at(epoch)
        files = self._files(phase)[1]
        shares = []
        for index, height, width in self._test_groups(phase):
            share = test_share(len(index), self._rank, self._world_size)
            own = index[share.start : share.stop]
            if len(own):
                shares.append((own, height, width))
        requests = (self._request(files, own.tolist(), None, height, width) for own, height, width in shares)
        largest = max((3 * len(own) * height * width for own, height, width in shares), default=0)
        pixels = self._pool.batches(requests, largest)
        return self._moved(pixels, (self._test_labels[torch.from_numpy(own)] for own, _, _ in shares))

    def fixed_batch(self, n: int) -> Batch:
        index = fixed_order(self.info.train_size, "fixed batch")[:n]
        size = self.info.image_shape[1]
        parts = [index[start : start + FIXED_PART] for start in range(0, len(index), FIXED_PART)]
        requests = (self._request(self._sets.train, part.tolist(), None, size, size) for part in parts)
        pixels = self._pool.batches(requests, 3 * min(FIXED_PART, len(index)) * size * size)
        labels = (self._train_labels[torch.from_numpy(part)] for part in parts)
        images, targets = zip(*self._moved(pixels, labels), strict=True)
        return torch.cat(images), torch.cat(targets)

    def close(self) -> None:
        """End the decoding processes; the next use starts them again."""
        self._pool.close()

    def _request(
        self, files: ImageFiles, index: list[int], views: list[View] | None, height: int, width: int
    ) -> Request:
        """The images of these files; without views, their centres."""
        return Request(files.paths(index), views or [CentreCrop()] * len(index), height, width, self._dataset.draft)

    def _files(self, phase: PhaseConfig) -> tuple[ImageFiles, ImageFiles]:
        """The training and test files of a phase: the smallest copy that is large enough, or the originals."""
        size = copy_for(phase.image_size, self._dataset.copies)
        sets = self._sets
        if size is None:
            return sets.train, sets.test
        target = copy_root(sets.root, size)
        return sets.train.moved(sets.root, target), sets.test.moved(sets.root, target)

    def _test_groups(self, phase: PhaseConfig) -> Iterator[tuple[np.ndarray, int, int]]:
        """The evaluation batches of a phase over all ranks: indices, height and width."""
        count, batch, size = self.info.test_size, self._phases.batch_of(phase), phase.image_size
        order = np.argsort(self._aspects, kind="stable") if phase.rectangular else np.arange(count)
        for start in range(0, count, batch):
            index = order[start : start + batch]
            shape = rectangle(float(self._aspects[index].mean()), size) if phase.rectangular else (size, size)
            yield index, *shape

    def _test_aspects(self) -> np.ndarray:
        """(N,) width / height of the evaluation images, cached, since reading 50,000 headers takes time."""
        path = self._sets.root / CACHE_FOLDER / f"sizes_{self.info.fingerprint}.npz"
        sizes = None
        if self._dataset.cache:
            sizes = read_cached(path, self.info.fingerprint, np.int32, (self.info.test_size, 2))
        if sizes is None or sizes.min() < 1:
            paths = self._sets.test.paths()
            sizes = np.array(list(chain.from_iterable(self._pool.map(image_sizes, paths))), dtype=np.int32)
            if self._dataset.cache:
                write_cached(path, self.info.fingerprint, sizes)
        return sizes[:, 0] / sizes[:, 1]

    def _moved(self, batches: Iterator[np.ndarray], labels: Iterable[Tensor]) -> Iterator[Batch]:
        """The decoded batches on the device; a GPU copies the next one while one is in use."""
        pairs = zip(batches, labels, strict=True)
        if self._device.type != "cuda":
            for pixels, label in pairs:
                yield self._finish(torch.from_numpy(pixels).to(self._device)), label.to(self._device)
            return
        side = torch.cuda.Stream(self._device)
        ahead: tuple[Tensor, Tensor] | None = None
        for pair in chain(pairs, [None]):
            ready = ahead
            if ready is not None:  # wait for its copy alone, before the next one begins
                current = torch.cuda.current_stream(self._device)
                current.wait_stream(side)
                for tensor in ready:
                    tensor.record_stream(current)
            if pair is not None:
                with torch.cuda.stream(side):
                    ahead = self._sent(torch.from_numpy(pair[0])), self._sent(pair[1])
            if ready is not None:
                yield self._finish(ready[0]), ready[1]

    def _sent(self, values: Tensor) -> Tensor:
        # pinning copies the batch and frees its place; the allocator keeps the pinned copy until the GPU has it
        return values.pin_memory().to(self._device, non_blocking=True)

    def _finish(self, pixels: Tensor) -> Tensor:
        """Bytes (N, H, W, 3) as scaled float32 images (N, 3, H, W), in new memory."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32)
        images.sub_(self._shift).div_(self._scale)
        return images if self._batching.channels_last else images.contiguous()

    def _check_batches(self, phased: bool) -> None:
        for number, phase in enumerate(self._phases.schedule):
            batch = self._phases.batch_of(phase)
            where = f"phases.schedule[{number}].batch_size" if phased else "batch_size"
            if self._batching.trains:
                hint = " (see phases.batch_scale)" * phased
                check_enough(where, batch, self.info.train_size, self.info.name, hint)
            batch_share(batch, self._world_size, where)


def rectangle(aspect: float, size: int) -> tuple[int, int]:
    """(height, width) for images of the mean `aspect` (width / height), with a shorter side of `size`."""
    longer = max(size, int(size * max(aspect, 1 / aspect)) // SHAPE_STEP * SHAPE_STEP)
    return (size, longer) if aspect >= 1 else (longer, size)


def _single_phase(dataset: DatasetConfig, batch_size: int) -> PhasesConfig:
    if dataset.image_size is None:
        raise UserError(
            "dataset.image_size: missing; set it (for example 224), or choose phases such as phases=finlay29"
        )
    phase = PhaseConfig(until=1, image_size=dataset.image_size, batch_size=batch_size, lr_from=1.0, lr_to=1.0)
    return PhasesConfig("single", (phase,))


def _listed(dataset: DatasetConfig, phases: PhasesConfig) -> tuple[ImageSets, Prints]:
    """The files of the run, and the fingerprints of all that it reads."""
    whole = list_images(dataset.root, dataset.num_classes)
    files = prints_of_sets(whole, {size: list_copy(whole, size) for size in copies_in_use(dataset, phases)})
    train, test, classes = whole.train, whole.test, whole.classes
    if dataset.train_limit is not None:
        train = train.part(limited(torch.from_numpy(train.labels), len(classes), dataset.train_limit, name_of(dataset)))
    if dataset.validation > 0:
        held = held_out(torch.from_numpy(train.labels), len(classes), dataset.validation, name_of(dataset))
        train, test = train.part(~held), train.part(held)
    return replace(whole, train=train, test=test), files
