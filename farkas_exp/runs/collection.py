"""The runs below a folder, told apart by their data, and what cannot be read of them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from farkas_exp.config.folders import home
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import warn
from farkas_exp.machine.terminal import printable
from farkas_exp.runs.directory import DONE
from farkas_exp.runs.found import Runs, Unreadable
from farkas_exp.runs.jsonfiles import is_altered, read_json
from farkas_exp.runs.paths import SEED
from farkas_exp.runs.query import fingerprint
from farkas_exp.runs.record import RunRecord, read_run


def survey(runs_dir: str | os.PathLike[str]) -> Runs:
    """All runs below `runs_dir`, each once, by name and seed; folders that hold none are skipped.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    records, unreadable = [], []
    for path in scan(runs_dir):
        record = read_run(path)
        records += [record] if record else []
        unreadable += faults(path, record)
    records, again = each_once(told_apart(records))
    unreadable += again
    in_order = sorted(records, key=lambda record: (record.slug, record.identity, record.seed))
    return Runs(in_order, sorted(unreadable, key=lambda each: str(each.path)))


def told_apart(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs, those of one identity on different data told apart.

    Their identities get a suffix and their configurations a key `data`, so that nothing groups them as repetitions. A
    run on unknown data counts as one on the data of the others, if those agree.
    """
    known: dict[str, set[str]] = {}
    for record in records:
        if record.data:
            known.setdefault(record.identity, set()).add(_data_name(record))
    mixed = {identity for identity, names in known.items() if len(names) > 1}
    return [
        replace(
            record, identity=f"{record.identity}+{_data_name(record)}",
            config={**record.config, "data": _data_name(record)},
        )
        if record.identity in mixed
        else record
        for record in records
    ]  # fmt: skip


def each_once(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[Unreadable]]:
    """Each run in one of its folders, and the others: a copy or a link must not count as a further repetition.

    Of several folders that counts which is named as the run is, then one with a result.
    """
    places: dict[tuple[str, int], list[RunRecord]] = {}
    for record in records:
        places.setdefault((record.identity, record.seed), []).append(record)
    kept, again = [], []
    for several in places.values():
        if len(several) == 1:
            kept += several
            continue
        by_data: dict[str, RunRecord] = {}
        for record in sorted(several, key=_as_copy):
            first = by_data.setdefault(fingerprint(record), record)
            if first is not record:
                again.append(
                    Unreadable(record.path, f"the same run as {first.path}, counted once{_apart(record, first)}")
                )
        kept += by_data.values()
    return kept, again


def _apart(record: RunRecord, first: RunRecord) -> str:
    """What tells a run that was trained twice from a copy: other errors."""
    error, counted = ((each.result or {}).get(each.key("error")) for each in (record, first))
    return "" if error is None or counted in (None, error) else f", though with an error of {error:.2f} %"


def _as_copy(record: RunRecord) -> tuple[bool, bool, str]:
    named = (record.path.parent.name, record.path.name) == (f"{record.slug}-{record.identity}", f"{SEED}{record.seed}")
    return not named, record.state not in DONE, str(record.path)


def _data_name(record: RunRecord) -> str:
    return "+".join(record.data[what][:8] for what in sorted(record.data)) or "unknown"


def record_at(path: str | os.PathLike[str]) -> RunRecord:
    """The record of the run directory that somebody named."""
    folder = Path(home(os.fspath(path), "run"))
    record = read_run(folder)
    if record is not None:
        if record.damage:
            warn(f"warning: {printable(folder)}: {record.damage_note}")
        return record
    seeds = sorted(folder.glob(f"{SEED}*")) if folder.is_dir() else []
    hint = f"it holds the seeds of one experiment; give one of them, such as {seeds[0]}" if seeds else ""
    why = next((fault.why for fault in faults(folder, None)), "") if folder.is_dir() else "no such folder"
    raise UserError(f"{folder}: {hint or why or 'no run directory; give the folder that holds run.json'}")


def collect(runs_dir: str | Path) -> list[RunRecord]:
    """The readable runs below `runs_dir`, by identity and seed; see `survey`."""
    return survey(runs_dir).records


def faults(path: Path, record: RunRecord | None) -> list[Unreadable]:
    """What cannot be read of the run directory `path` with this record; nothing if it holds no run."""
    if record is not None:
        again = read_run(path) if record.damage else None  # it may have been written just now
        if again is not None and again.damage:
            return [Unreadable(path, again.damage_note)]
        return []
    try:
        names = set(os.listdir(path))
    except OSError as error:
        return [Unreadable(path, f"it cannot be read: {error.strerror}")]
    if not names & {"run.json", "state.json", "metrics.jsonl", "result.json", "checkpoint.pt"}:
        return []
    if "run.json" not in names:
        return [Unreadable(path, "no run.json")]
    if read_run(path) is not None:
        return []  # written just now
    content = read_json(path / "run.json")
    changed = isinstance(content, dict) and is_altered(content)
    return [Unreadable(path, f"run.json is damaged, or {'changed by hand' if changed else 'of another version'}")]


def scan(runs_dir: str | os.PathLike[str]) -> Iterator[Path]:
    """The seed folders below `runs_dir`, in no order, readable or not.

    A folder that cannot be listed, such as a broken link, is yielded itself.
    """
    root = Path(home(os.fspath(runs_dir), "runs_dir"))
    try:
        identities = _subfolders(root, "")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"runs_dir: no folder {root}; train something first or give the right runs_dir=...") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"runs_dir: {root} cannot be read: {reason}") from None
    for identity in identities:
        try:
            yield from _subfolders(identity, SEED)
        except FileNotFoundError:
            if identity.is_symlink():
                yield identity
        except OSError:
            yield identity


def _subfolders(folder: Path, prefix: str) -> list[Path]:
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if entry.name.startswith(prefix) and not entry.name.startswith(".")]
        return [folder / entry.name for entry in named if _may_be_folder(entry)]


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True
