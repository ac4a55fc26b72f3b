"""Train a list of runs on a GPU that is lent for minutes at a time, and carry what is done in a few small files.

    python scripts/gpu_campaign.py --minutes 9 --out DIR [--go-on DIR] [--cells FILE] [KEY=VALUE ...]

Each line of the list is the arguments of `python -m farkas_exp`; the first lines come first. Runs train side by side,
as many as memory and cores allow, and share the GPU by NVIDIA's MPS where that is installed. Before the time is over
they are asked to stop and write their checkpoints, and the folder of runs is packed into --out: at most 8 files of at
most 16 MB, records first, then the checkpoints of unfinished runs, then the weights of finished ones. The next call
takes these files with --go-on and goes on from there; on a machine that still has the folder it goes on without them.

Exit status: 0 every run is done, 75 some are to be continued, 1 one crashed, 2 a mistake in the command.
"""

import argparse
import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from farkas_exp.launch.outcomes import CRASH, OK, TO_BE_CONTINUED, USAGE
from farkas_exp.machine.cores import cores
from farkas_exp.machine.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 16 * 10**6
"""Of a file."""
MOST_FILES = 8
SECONDS_TO_STOP = 20.0
"""So long a run may take to its next safe step and its checkpoint; then it is killed, and has an earlier one."""
SECONDS_TO_PACK = 20.0
GIGABYTES_A_RUN = 3.0
"""Of the card's memory: CUDA's own and a thin network's at a batch of 128."""
ALWAYS = ["hydra.mode=RUN", "wandb.mode=disabled", "progress=none", "checkpoint.every_minutes=1"]


def read_cells(text: str) -> list[list[str]]:
    """The arguments of each run: of every combination in every line; `#` begins a comment.

    Raises:
        UserError: a line that is no arguments.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        try:
            overrides = OverridesParser.create().parse_overrides(words)
            found += BasicSweeper.split_arguments(overrides, None)[0] if words else []
        except HydraException as error:
            raise UserError(f"line {number} of the list: {str(error).splitlines()[0]}") from None
    return found


def runs_at_once() -> int:
    """How many runs this machine takes: by the memory of its GPU and by its cores."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return max(1, min(cores(), int(float(shown.splitlines()[0]) / 1024 / GIGABYTES_A_RUN)))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return cores()


@contextmanager
def sharing(folder: Path) -> Iterator[dict[str, str]]:
    """Let processes use the GPU at the same time by MPS, where it is installed, rather than one after the other.

    Yields what their environment needs; nothing where the server does not start.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    call: Any = partial(subprocess.run, env={**os.environ, **places}, capture_output=True, timeout=10, check=False)
    started = control is not None and call([control, "-d"]).returncode == 0
    try:
        yield places if started else {}
    finally:
        if started:
            call([control], input=b"quit\n")


@dataclass
class Pool:
    """Runs side by side, each a process of its own, until a moment of `time.monotonic`."""

    at_once: int
    until: float
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    running: dict[int, tuple["subprocess.Popen[bytes]", list[str]]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)

    def train(self, cells: Sequence[list[str]]) -> Counter[int]:
        """Train the runs in their order; how many ended with which exit status. Those not begun count as 75."""
        waiting = deque(enumerate(cells))
        with self.log.open("ab") as log:
            while (waiting or self.running) and time.monotonic() < self.until:
                while waiting and len(self.running) < self.at_once:
                    self._start(*waiting.popleft(), log)
                self._collect()
                time.sleep(0.1)
            self._stop()
        self.statuses[TO_BE_CONTINUED] += len(waiting)
        return +self.statuses

    def _start(self, number: int, arguments: list[str], log: io.BufferedIOBase) -> None:
        threads = str(max(1, cores() // self.at_once))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": threads,
            **self.environment,
        }
        command = [sys.executable, "-m", "farkas_exp", *arguments]
        self.running[number] = (subprocess.Popen(command, env=environment, stdout=log, stderr=log), arguments)

    def _collect(self) -> None:
        for number, (process, arguments) in list(self.running.items()):
            status = process.poll()
            if status is not None:
                del self.running[number]
                status = TO_BE_CONTINUED if status < 0 else status
                self.statuses[status] += 1
                print(f"{status:3d}  {' '.join(arguments)}", flush=True)

    def _stop(self) -> None:
        for process, _ in self.running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_STOP
        while self.running and time.monotonic() < deadline:
            self._collect()
            time.sleep(0.1)
        for process, _ in self.running.values():
            process.kill()
            process.wait()
        self._collect()


def pack(runs_dir: Path, out: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> list[Path]:
    """Pack the folder of runs into files, and return what there was no room for, the least needed first of all.

    They are `runs.1`, `runs.2`, ..., the last one with `.last`, so that a missing one is noticed. Links are left out:
    they may lead out of the folder, and `unpack` would refuse all.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in volumes_in(out):
        old.unlink()
    room, left_out = most_bytes * most_files - 2 * tarfile.RECORDSIZE, []
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(filter(_is_carried, runs_dir.rglob("*")), key=lambda path: (_rank(path), path)):
            needed = path.stat().st_size + 4 * tarfile.BLOCKSIZE
            if needed > room:
                left_out.append(path)
                continue
            room -= needed
            archive.add(path, str(path.relative_to(runs_dir)), recursive=False)
    content = whole.getbuffer()
    starts = range(0, len(content), most_bytes)
    for number, start in enumerate(starts, 1):
        name = f"runs.{number}" + ".last" * (number == len(starts))
        (out / name).write_bytes(content[start : start + most_bytes])
    return left_out


def _is_carried(path: Path) -> bool:
    needed = "wandb" not in path.parts and not path.name.startswith((".", "checkpoint.previous"))
    return needed and path.is_file() and not path.is_symlink()


def _rank(path: Path) -> int:
    """0 a record, 1 the checkpoint of an unfinished run, 2 that of a finished one."""
    if path.suffix != ".pt":
        return 0
    return 2 if (path.parent / "result.json").is_file() else 1


def unpack(folder: Path, runs_dir: Path) -> None:
    """Unpack what `pack` has written, into a folder that has no runs yet.

    Raises:
        UserError: there is nothing, a file is missing or damaged, or there are runs already.
    """
    files = volumes_in(folder)
    if not files:
        raise UserError(f"--go-on: {str(folder)!r} has no files of a campaign (runs.1, ...)")
    if any(runs_dir.glob("*")):
        raise UserError(f"--go-on: {str(runs_dir)!r} has runs already; leave --go-on out, or give another --runs-dir")
    expected = [f"runs.{number}" for number in range(1, len(files) + 1)]
    if [file.name.removesuffix(".last") for file in files] != expected or files[-1].suffix != ".last":
        raise UserError(f"--go-on: a file is missing in {str(folder)!r}; it has {', '.join(f.name for f in files)}")
    runs_dir.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO(b"".join(file.read_bytes() for file in files))
    try:
        with tarfile.open(fileobj=whole, mode="r|") as archive:
            archive.extractall(runs_dir, filter="data")
    except tarfile.TarError as error:
        raise UserError(f"--go-on: the files in {str(folder)!r} are damaged ({error})") from None


def volumes_in(folder: Path) -> list[Path]:
    """The files of a campaign in their order."""
    named = {re.fullmatch(r"runs\.(\d+)(\.last)?", path.name): path for path in folder.glob("runs.*")}
    return [path for match, path in sorted((int(match[1]), path) for match, path in named.items() if match)]


def main(given: Sequence[str] | None = None) -> int:
    """Go on with the campaign for so many minutes."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="the whole time, with stopping and packing")
    parser.add_argument("--out", type=Path, required=True, help="folder of the packed runs")
    parser.add_argument("--go-on", type=Path, help="folder of the packed runs of the call before")
    parser.add_argument("--cells", type=Path, default=ROOT / "scripts" / "gpu_campaign.txt", help="the list of runs")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/gpu_campaign"))
    parser.add_argument("--at-once", type=int, help="runs side by side (default: by memory and cores)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for every run")
    options = parser.parse_args(given)
    if not 0 < options.minutes < math.inf or (options.at_once is not None and options.at_once < 1):
        parser.error("--minutes and --at-once must be above 0")
    try:
        common = [*ALWAYS, f"runs_dir={options.runs_dir}", *options.overrides]
        cells = [[*cell, *common] for cell in read_cells(options.cells.read_text())]
        if options.go_on:
            unpack(options.go_on, options.runs_dir)
    except (UserError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    options.runs_dir.mkdir(parents=True, exist_ok=True)
    reserve = min(SECONDS_TO_STOP + SECONDS_TO_PACK, options.minutes * 30)  # half of a very short call
    until = begun + 60 * options.minutes - reserve
    with TemporaryDirectory(prefix="mps_") as folder, sharing(Path(folder)) as environment:
        pool = Pool(options.at_once or runs_at_once(), until, options.runs_dir / "campaign.log", environment)
        how = ", sharing the GPU by MPS" if environment else ""
        print(f"{len(cells)} runs, {pool.at_once} at once{how}", flush=True)
        statuses = pool.train(cells)
    for path in pack(options.runs_dir, options.out):
        print(f"no room for {path}")
    sizes = [path.stat().st_size / 1e6 for path in volumes_in(options.out)]
    names = {OK: "done", TO_BE_CONTINUED: "to be continued", CRASH: "crashed", USAGE: "refused"}
    ended = ", ".join(f"{count} {names.get(status, status)}" for status, count in sorted(statuses.items()))
    print(f"{ended}; {len(sizes)} files, {sum(sizes):.1f} MB in {options.out}; {time.monotonic() - begun:.0f} s")
    worst = [status for status in (USAGE, CRASH, TO_BE_CONTINUED) if statuses[status]]
    return worst[0] if worst else OK


if __name__ == "__main__":
    sys.exit(main())
