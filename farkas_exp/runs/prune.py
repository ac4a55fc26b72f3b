"""`python -m farkas_exp prune runs_dir=runs`: free the disk space of runs that are done; results and records stay."""

from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import say
from farkas_exp.machine.terminal import printable
from farkas_exp.runs import DONE, RunDirectory, read_run, survey
from farkas_exp.runs.command import folder_at, one_of, read_words
from farkas_exp.runs.query import selected

HELP = """\
python -m farkas_exp prune [runs_dir=runs] [drop=optimizer] [apply=true] [KEY=VALUE ...]

Shows what could be deleted of the runs that are finished or have failed, and with apply=true deletes it. Results,
metrics, configurations and logs stay. Runs without a result, and runs that a process works on, are left alone.

runs_dir=runs     where the runs are
drop=optimizer    optimizer: keep the weights, drop what only further training needs; checkpoints: drop the weights, too
apply=true        delete; without it nothing is touched
any key of a run's configuration, such as model=resnet18 or seed=0,1, chooses the runs with these values.

example: python -m farkas_exp prune runs_dir=runs drop=checkpoints dataset=digits
"""

DROPS = {"optimizer": "weights", "checkpoints": "none"}
"""What can be dropped, and what `checkpoint.keep` calls what is kept then."""


@command(HELP)
def main(arguments: Sequence[str]) -> None:
    """Print a line for each run with something to drop, and the sum."""
    own = {
        "runs_dir": folder_at("runs_dir"),
        "drop": one_of("drop", tuple(DROPS)),
        "apply": one_of("apply", ("true", "false")),
    }
    values, filters = read_words(arguments, own)
    drop, apply = values.get("drop", "optimizer"), values.get("apply") == "true"
    found = survey(values.get("runs_dir", Path("runs")))
    chosen = selected(found.records, filters)
    done = [record for record in chosen if record.state in DONE]
    freed = count = 0
    for record in done:
        size, note = _prune(RunDirectory(record.path), drop, apply)
        freed, count = freed + size, count + bool(size)
        if size or note:
            say(f"  {note or decimal(size):>9}  {printable(record.path)}")
    left = len(chosen) - len(done)
    also = f"; {left} without a result {'is' if left == 1 else 'are'} left alone" if left else ""
    more = "" if apply or not count else f"; to delete it, add apply=true (drop={drop})"
    say(f"{decimal(freed)} {'freed' if apply else 'could be freed'} in {count} of {len(chosen)} runs{also}{more}")
    if found.left_out:
        say(found.left_out)


def _prune(run: RunDirectory, drop: str, apply: bool) -> tuple[int, str]:
    """The bytes that are freed, and why nothing was if the run is left alone."""
    size = _droppable(run, drop)
    if not (size and apply):
        return size, ""
    try:
        with run.locked():
            record = read_run(run.path)
            if record is None or record.state not in DONE:
                return 0, "it is trained again"
            before = _size(run)
            if DROPS[drop] == "none":
                for path in _checkpoints(run):
                    path.unlink(missing_ok=True)
            else:
                from farkas_exp.runs import checkpoint

                checkpoint.keep(run, DROPS[drop])
            return before - _size(run), ""
    except UserError as error:
        return 0, str(error).rpartition(": ")[2]
    except OSError as error:
        raise UserError(f"{run.path}: not pruned: {error}") from None


def _droppable(run: RunDirectory, drop: str) -> int:
    if drop == "checkpoints":
        return _size(run)
    from farkas_exp.runs import checkpoint

    previous = run.previous_checkpoint
    return checkpoint.training_bytes(run) + (previous.stat().st_size if previous.is_file() else 0)


def _checkpoints(run: RunDirectory) -> list[Path]:
    return [path for path in (run.checkpoint, run.previous_checkpoint) if path.is_file() or path.is_symlink()]


def _size(run: RunDirectory) -> int:
    return sum(path.lstat().st_size for path in _checkpoints(run))
