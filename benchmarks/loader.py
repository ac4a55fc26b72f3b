"""Our decoding processes beside torch's DataLoader: `python -m benchmarks.loader`.

Both decode the same training crops in pieces of the same size, into batches of the same pixels, and keep their
processes. Processor time is that of all processes together, which other load on the machine disturbs little.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from farkas_exp.data.files.decode import RandomCrop, View
from farkas_exp.data.files.listing import list_images
from farkas_exp.data.files.pool import DecodingPool, Request
from scripts.make_image_folder import make_folder

if TYPE_CHECKING:
    import torch

SIZE, BATCH, ROUNDS = 128, 128, 3


class Pieces:
    """A data set whose items are pieces of a batch, decoded."""

    def __getitem__(self, piece: Request) -> "torch.Tensor":
        import torch

        pixels = np.empty((len(piece.paths), piece.height, piece.width, 3), np.uint8)
        piece._replace(offset=0).decode_into(memoryview(pixels).cast("B"))
        return torch.from_numpy(pixels)


class Loader:
    """The batches of a DataLoader, as `DecodingPool` has them."""

    def __init__(self, workers: int) -> None:
        from torch.utils.data import DataLoader

        self._pieces: list[Request] = []
        data: Any = Pieces()
        self._loader: Any = DataLoader(
            data, batch_size=None, sampler=self._pieces, num_workers=workers, persistent_workers=True,
            prefetch_factor=4, multiprocessing_context="spawn",
        )  # fmt: skip

    def batches(self, requests: Sequence[Request], largest: int) -> Iterator[np.ndarray]:
        """Each batch, in order."""
        self._pieces[:] = [piece for request in requests for piece in request.pieces(0)]
        pieces = iter(self._loader)
        for request in requests:
            batch, done = np.empty((len(request.paths), request.height, request.width, 3), np.uint8), 0
            while done < len(batch):
                piece = next(pieces).numpy()
                batch[done : done + len(piece)] = piece
                done += len(piece)
            yield batch

    def processes(self) -> list[int]:
        """The numbers of its processes."""
        return [worker.pid for worker in self._loader._iterator._workers]

    def close(self) -> None:
        """End them."""
        self._loader._iterator._shutdown_workers()


class Pool(DecodingPool):
    """Our processes."""

    def processes(self) -> list[int]:
        """Their numbers."""
        return [process.pid for process in self._processes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both and print a line each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), classes=8, train=-(-given.images // 8), val=1, size=300, noise=14.0)
        files = list_images(folder).train
        paths = files.paths()
        views: list[View] = [RandomCrop(number, 0.08, True) for number in range(len(paths))]
        parts = [slice(start, start + BATCH) for start in range(0, len(paths), BATCH)]
        wanted = [Request(paths[part], views[part], SIZE, SIZE) for part in parts]
        for name, kind in (("DecodingPool", Pool), ("DataLoader", Loader)):
            print(f"{name}: {measure(kind(given.workers), wanted, len(paths))}", flush=True)
    return 0


def measure(pool: Any, wanted: list[Request], count: int) -> str:
    """What starting costs, what the processes take, and how fast they decode."""
    largest = max(request.nbytes for request in wanted)
    started = time.perf_counter()
    batches = pool.batches(wanted, largest)
    next(batches)
    first = time.perf_counter() - started
    for _ in batches:
        pass
    before, rates = _seconds(pool.processes()), []
    memory = [_megabytes(process) for process in pool.processes()]
    for _ in range(ROUNDS):
        begin = _seconds(pool.processes()), time.process_time()
        for _ in pool.batches(wanted, largest):
            pass
        rates.append(count / (_seconds(pool.processes()) - begin[0] + time.process_time() - begin[1]))
    pool.close()
    start = before - count / median(rates)
    return (
        f"{median(rates):,.0f} images a second of processor time; {first:.1f} s to the first batch; starting took"
        f" {start:.1f} s of processor time; {max(memory):.0f} MB a process"
    )


def _seconds(processes: list[int]) -> float:
    """The processor time of some processes so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split() for pid in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _megabytes(process: int) -> float:
    """The memory of a process, what it shares with others divided among them."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) / 1024


if __name__ == "__main__":
    sys.exit(main())
