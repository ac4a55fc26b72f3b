"""Decoding processes: the same pixels as without, one line for a broken file, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from farkas_exp.data.files.decode import CentreCrop, RandomCrop, image_sizes
from farkas_exp.data.files.pool import DecodingPool, Request
from farkas_exp.machine import signals
from farkas_exp.machine.errors import UserError
from scripts.make_image_folder import make_folder


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    make_folder(root, classes=2, train=30, val=1, size=24)
    return sorted(map(str, (root / "train").glob("*/*")))


@pytest.fixture(scope="module")
def pool():
    made = DecodingPool(2)
    yield made
    made.close()


def requests(paths, batch=22, size=16):
    """Batches of another shape each, larger than a piece and no multiple of one."""
    starts = range(0, len(paths), batch)
    parts = [paths[start : start + batch] for start in starts]
    return [
        Request(part, [RandomCrop(number + i, 0.08, True) for i in range(len(part))], size, size + 8 * number)
        for number, part in enumerate(parts)
    ]


def decoded(pool, wanted):
    return [pixels.copy() for pixels in pool.batches(wanted, max(request.nbytes for request in wanted))]


def test_processes_decode_what_one_does(paths, pool):
    wanted = requests(paths)
    alone = decoded(DecodingPool(0), wanted)
    assert [pixels.shape for pixels in alone] == [(22, 16, 16, 3), (22, 16, 24, 3), (16, 16, 32, 3)]
    for _ in range(2):
        together = decoded(pool, wanted)
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_pass_that_is_left_behind_does_not_show_in_the_next(paths, pool):
    wanted = requests(paths * 3, batch=10)
    left = pool.batches(wanted, max(request.nbytes for request in wanted))
    next(left)
    again = decoded(pool, wanted)
    assert all(np.array_equal(a, b) for a, b in zip(decoded(DecodingPool(0), wanted), again, strict=True))
    with pytest.raises(AssertionError):
        next(left)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_the_users_and_the_pool_goes_on(paths, pool, tmp_path, workers):
    used = pool if workers else DecodingPool(0)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    wanted = requests([*paths[:30], str(tmp_path / "broken.jpg"), *paths[30:]])
    with pytest.raises(UserError, match=r"cannot read the image '.*broken.jpg'"):
        decoded(used, wanted)
    assert len(decoded(used, requests(paths))) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_map_keeps_the_order(paths, pool, workers):
    used = pool if workers else DecodingPool(0)
    found = [size for part in used.map(image_sizes, paths, 7) for size in part]
    assert found == [size_of(path) for path in paths]


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_a_killed_worker_is_said_and_replaced(paths):
    pool = DecodingPool(2)
    wanted = requests(paths)
    decoded(pool, wanted)
    os.kill(pool._processes[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"a decoding process ended \(exit code -9\)"):
        decoded(pool, wanted)
    assert len(decoded(pool, wanted)) == 3
    pool.close()


def test_a_signal_to_all_processes_ends_no_worker_that_is_still_starting(paths):
    """The trainer would take it for a crash of its data; it decides itself when to stop."""
    pool = DecodingPool(1)
    pool._start()
    (worker,) = pool._processes
    for number in signals.STOP_SIGNALS:
        os.kill(worker.pid, number)
    assert len(decoded(pool, requests(paths))) == 3
    pool.close()


def test_batches_too_large_for_memory_are_refused_in_one_line(paths, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("farkas_exp.data.files.pool.os.posix_fallocate", full)
    pool = DecodingPool(1)
    with pytest.raises(UserError, match=r"dataset.workers: no room for \d+ MiB of decoded images"):
        decoded(pool, requests(paths))
    pool.close()


CODE = """
import sys, time
from farkas_exp.data.files.decode import CentreCrop
from farkas_exp.data.files.pool import DecodingPool, Request
if __name__ == "__main__":
    pool = DecodingPool(2)
    batches = pool.batches([Request(sys.argv[2:], [CentreCrop()] * (len(sys.argv) - 2), 8, 8)] * 50, 64 * 3 * 60)
    next(batches)
    print(*[process.pid for process in pool._processes], flush=True)
    sys.stdin.readline()
    print(1 + sum(1 for _ in batches), flush=True)
    if sys.argv[1] == "wait":
        time.sleep(60)
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_workers_end_with_the_process_that_they_decode_for(paths, tmp_path, how):
    script = tmp_path / "decoding.py"
    script.write_text(CODE)
    command = [sys.executable, str(script), "wait" if how == "killed" else "end", *paths[:20]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, signal.SIGTERM)  # what a cluster sends to all: the trainer decides when to stop
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "50\n"
        if how == "killed":
            process.kill()
        process.wait(240)
    deadline = time.monotonic() + 240
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their trainer"
        time.sleep(0.05)
    assert process.returncode == (-9 if how == "killed" else 0)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_views_and_paths_go_together():
    request = Request(["a", "b", "c"], [CentreCrop()] * 3, 4, 4)
    (piece,) = request.pieces(100)
    assert (piece.offset, list(piece.paths), request.nbytes) == (100, ["a", "b", "c"], 144)


def test_a_script_without_a_guard_is_not_run_again_by_each_process(paths, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from farkas_exp.data.files.decode import CentreCrop\n"
        "from farkas_exp.data.files.pool import DecodingPool, Request\n"
        "print('once')\n"
        "request = Request(sys.argv[1:], [CentreCrop(1.0)] * len(sys.argv[1:]), 8, 8)\n"
        "print(*(images.shape for images in DecodingPool(2).batches([request], request.nbytes)))\n"
    )
    ended = subprocess.run(
        [sys.executable, script, *paths[:3]], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("once\n(3, 8, 8, 3)\n", 0), ended.stderr
