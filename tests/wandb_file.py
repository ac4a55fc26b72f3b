"""A reader of W&B's offline file, for tests: LevelDB-log blocks that hold protobuf records."""

import json
import struct
import time
from pathlib import Path
from typing import Any

BLOCK = 32768


def read_wandb_file(path: Path) -> dict[str, Any]:
    """Config, history rows, summary, exit code and run facts of one `run-<id>.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit_code": None, "artifacts": {}}
    for data in _payloads(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "name": record.run.display_name, "project": record.run.project}
            found |= {"group": record.run.run_group, "tags": list(record.run.tags)}
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            found["history"].append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found["summary"] |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "artifact":
            contents = record.artifact.manifest.contents
            found["artifacts"][record.artifact.name] = sorted(item.path for item in contents)
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _payloads(content: bytes) -> list[bytes]:
    """The records: full ones (type 1), and those split over blocks (first 2, middle 3, last 4)."""
    assert content[:4] == b":W&B"
    payloads, parts, position = [], b"", 7
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if kind == 0:
            position += left
            continue
        if position + 7 + length > len(content):
            break
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            payloads.append(parts)
            parts = b""
    return payloads


def complete(path: Path) -> dict[str, Any]:
    """The content of the file once W&B's own process has written the end of the run: `finish` does not wait for it."""
    deadline = time.monotonic() + 240
    while True:
        found = read_wandb_file(path)
        if found["exit_code"] is not None or time.monotonic() > deadline:
            return found
        time.sleep(0.02)
