"""JSON files, and JSONL files with a row on each line, safe against a kill at any moment.

They may be damaged, so they are read without waiting and within limits. A number that is not finite becomes null.
"""

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from farkas_exp.machine.files import appending, cut_torn_line, write_text
from farkas_exp.machine.signals import at_stake


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with a checksum of its content, by which `is_altered` knows what was changed by hand."""
    return {**value, "checksum": _digest(finite(value))}


def is_altered(value: dict[str, Any]) -> bool:
    """Whether the content does not fit its checksum; False without one, as older versions wrote it."""
    return "checksum" in value and value["checksum"] != _digest(value)


def _digest(value: dict[str, Any]) -> str:
    content = {key: inner for key, inner in value.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def json_line(row: dict[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps(finite(row), allow_nan=False) + "\n"


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


def finite(value: Any) -> Any:
    """`value` with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


LARGEST_JSON, LARGEST_ROWS = 16 * 2**20, 256 * 2**20
"""The most bytes of a JSON and of a JSONL file, far more than any run writes."""
LONGEST_ROW = 2**16
"""The most bytes of a row of metrics, far more than any run writes."""
DEEPEST = 32
"""The most levels of nested values in a record."""


def read_json(path: str | Path) -> Any:
    """The JSON value in `path`, or None without a readable file or valid JSON.

    Numbers that are not finite are None. Never waits on a pipe, a device or an endless file.
    """
    content = _content(path, LARGEST_JSON)
    return None if content is None else parse_json(content)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file up to the first torn line or one that is no JSON object; empty without a file.

    Like `read_json`, it never waits.
    """
    rows: list[dict[str, Any]] = []
    for line in (_content(path, LARGEST_ROWS) or b"").splitlines(keepends=True):
        row = parse_json(line) if line.endswith(b"\n") else None
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def read_last_row(path: str | Path) -> dict[str, Any] | None:
    """The last row of a JSONL file that `read_rows` can read whole, at little cost; None without one."""
    lines = (_content(path, LARGEST_ROWS, LONGEST_ROW) or b"").splitlines(keepends=True)
    row = parse_json(lines[-1]) if lines and lines[-1].endswith(b"\n") else None
    return row if isinstance(row, dict) else None


def parse_json(content: bytes) -> Any:
    """The JSON value of `content`, or None if it is invalid, too deep or null. Numbers are finite or None."""
    try:
        value = _DECODER.decode(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if _is_shallow(value) else None


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        containers = [each for each in level if isinstance(each, (dict, list))]
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return True
    return False


def _content(path: str | Path, most: int, last: int | None = None) -> bytes | None:
    """The content of a regular file of at most `most` bytes, or its `last` ones, else None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
            return None
        if last is not None:
            os.lseek(handle, max(0, facts.st_size - last), os.SEEK_SET)
        parts, left = [], most + 1  # a file of /proc has no size, and perhaps no end
        while left and (part := os.read(handle, min(left, 2**20))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts) if left else None
    except OSError:
        return None
    finally:
        os.close(handle)


def count(value: Any) -> int:
    """A whole number of a file; 0 for anything else."""
    return value if type(value) is int else 0


def _real(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


_DECODER = json.JSONDecoder(
    parse_int=lambda digits: int(digits) if len(digits) <= 40 else _real(digits),
    parse_float=_real, parse_constant=lambda name: None,
)  # fmt: skip
