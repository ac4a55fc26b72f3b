"""Work in forks of this process, which has imported everything: in milliseconds instead of seconds."""

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Fork:
    """A fork that does `work`, with one thread, and ends with the status that it returns; it writes into `said`."""

    def __init__(self, work: Callable[[], Any], said: Path) -> None:
        importlib.import_module("torch._dynamo")  # or the first optimizer imports it, in each fork
        self._said = said
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            self.pid = os.fork()
        if self.pid == 0:
            _do(work, said)

    def end(self) -> tuple[int, str]:
        """The exit code, negative for a signal, and what it wrote, once it has ended."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), self._said.read_text()


def _do(work: Callable[[], Any], said: Path) -> None:
    import torch

    status = 70
    try:
        torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork
        sys.stdout = sys.stderr = open(said, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - until the process ends
        status = work()
    except BaseException:  # noqa: BLE001 - it must not return into the test
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 0)
