"""Several processes of one run within a test: forked from a server that has imported PyTorch once."""

import io
import multiprocessing
import os
import signal
import socket
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress

import pytest

from farkas_exp.machine import signals

PRELOADED = [
    "farkas_exp.launch.cli",
    "farkas_exp.training.session",
    "hydra.main",
    "torch._dynamo",
    "tests.machine.test_distributed",
]
"""What the processes would import first of all, each for itself, in seconds."""

SECONDS = 240
"""How long a test waits for its processes before it fails."""


def in_ranks(world_size, function, *arguments, variables=None, wait_for=None):
    """Call `function(*arguments)`, a function of a module, in `world_size` processes.

    With `wait_for`, some ranks, the others are killed when these have answered, and their answer is None.

    Returns:
        What it returned in each, by rank; for a process that was killed, its exit code (such as -9).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = []
    for rank in range(world_size):
        environment = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, **place, **(variables or {})}
        ours, theirs = context.Pipe()
        process = context.Process(target=_call, args=(theirs, environment, function, arguments))
        process.start()
        theirs.close()
        started.append((process, ours))
    try:
        ranks = range(world_size) if wait_for is None else wait_for
        return [_answer(*started[rank]) if rank in ranks else None for rank in range(world_size)]
    finally:
        for process, _ in started:
            process.kill()
            process.join()


def _call(answer, environment, function, arguments):
    import torch

    # As from a shell: a sweep earlier in these tests may have started the server with signals held back.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOP_SIGNALS)
    torch.set_num_threads(1)
    os.environ |= {key: str(value) for key, value in environment.items()}
    try:
        answer.send((True, function(*arguments)))
    except BaseException:  # noqa: BLE001 - shown by the test
        answer.send((False, traceback.format_exc()))


def _answer(process, pipe):
    if not pipe.poll(SECONDS):
        pytest.fail(f"process {process.pid} hangs")
    with suppress(EOFError):
        good, value = pipe.recv()
        return value if good else pytest.fail(value)
    process.join()
    return process.exitcode


def command(*arguments):
    """The command line in this process: its exit status and what it printed."""
    from farkas_exp.launch.cli import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(list(arguments))
    return status, out.getvalue(), err.getvalue()


def command_with(tampering, *arguments):
    """`command` after `tampering(rank)`, a function of a module."""
    tampering(int(os.environ["RANK"]))
    return command(*arguments)
