"""The per-epoch record of a run: one strict JSON object per line, safe against a kill at any moment.

A number that JSON cannot hold (NaN, an infinity) is written as null: in a row, null means "not finite". Rows are read
back by `farkas_exp.runs.read_rows`, which stops at a torn last line.
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

    A row reaches the operating system before `append` returns, so it survives the death of the process; with `sync`
    it is on the disk, so it survives the death of the machine. A torn last line that an earlier process left is cut
    off first: a row is never glued to it.
    """

    def __init__(self, path: Path) -> None:
        cut_torn_line(path)
        self._file = appending(path)

    def append(self, row: dict[str, Any], sync: bool = True) -> None:
        """Append `row` as one line; `sync` waits for the disk."""
        with at_stake():
            self._file.write(json.dumps(finite(row), allow_nan=False) + "\n")
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        self._file.close()

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def truncate_rows(path: Path, epochs: int) -> list[dict[str, Any]]:
    """Keep the rows of the first `epochs` epochs only, and return them.

    For a run that goes on from a checkpoint of `epochs` finished epochs: rows that were written after the checkpoint
    will be written again. Rows are counted by their "epoch" (from 1; 0 is what was measured before the first), so a
    file with a row at some epochs only is cut at the same point; an epoch that is there twice is kept once. The file is
    replaced as a whole.
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
