"""The rows of a run: a strict JSON object on each line, safe against a kill at any moment.

A number that is not finite is written as null. `runs.read_rows` reads the rows back, and stops at a torn last line.
"""

import json
import os
from pathlib import Path
from typing import Any

from farkas_exp.machine.files import appending, cut_torn_line, write_text
from farkas_exp.machine.signals import at_stake
from farkas_exp.runs import finite, read_rows


class JsonlWriter:
    """Appends rows to a JSONL file.

    When `append` returns, the row survives the death of the process; with `sync`, also that of the machine. The torn
    last line of an earlier process is cut off first.
    """

    def __init__(self, path: Path) -> None:
        cut_torn_line(path)
        self._file = appending(path)

    def append(self, row: dict[str, Any], sync: bool = True) -> None:
        """Append a row as one line; `sync` waits for the disk."""
        with at_stake():
            self._file.write(json.dumps(finite(row), allow_nan=False) + "\n")
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def truncate_rows(path: Path, epochs: int) -> list[dict[str, Any]]:
    """Keep only the rows of the first `epochs` epochs, once each, and return them.

    For a run that goes on from a checkpoint of `epochs` finished epochs: it writes the later rows again. Rows count by
    their "epoch" (from 1; 0 is before the first), so a file need not have a row for every epoch. The file is replaced
    as a whole.
    """
    rows: list[dict[str, Any]] = []
    last = -1
    for row in read_rows(path):
        epoch = row.get("epoch")
        if isinstance(epoch, int) and last < epoch <= epochs:
            rows.append(row)
            last = epoch
    if path.exists():
        write_text(path, "".join(json.dumps(finite(row), allow_nan=False) + "\n" for row in rows))
    return rows
