"""The rows of a run: a strict JSON object on each line, safe against a kill at any moment.

A number that is not finite is written as null. `runs.read_rows` reads the rows back, and stops at a torn last line.
"""

import os
from pathlib import Path
from typing import Any

from farkas_exp.machine.files import appending, cut_torn_line, write_text
from farkas_exp.machine.signals import at_stake
from farkas_exp.runs.jsonfiles import json_line, read_rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row as one line, and wait for the disk: it survives the death of the machine.

    The torn last line of an earlier process is cut off first.
    """
    cut_torn_line(path)
    with at_stake(), appending(path) as file:
        file.write(json_line(row))
        file.flush()
        os.fsync(file.fileno())


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
        write_text(path, "".join(map(json_line, rows)))
    return rows
