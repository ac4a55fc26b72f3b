"""The experiments of all studies: `python -m farkas_exp.studies [list | table | run NAME [KEY=VALUE ...] | mini]`.

`list` prints a line for each, as `make help` does; `table` the list of docs/experiments.md; `run` runs an experiment,
and then the one that continues it; `mini` runs those of the sibling papers in small.
"""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from farkas_exp.machine import signals
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.signals import StopRequest
from farkas_exp.registry import EXPERIMENTS
from farkas_exp.studies import mini


def target(name: str) -> str:
    """What `make` calls the experiment."""
    return name.replace("_", "-")


def listing() -> str:
    """A line for each experiment."""
    return "".join(f"  {target(n):<31}{EXPERIMENTS[n].title} ({EXPERIMENTS[n].runs} runs)\n" for n in EXPERIMENTS)


def markdown() -> str:
    """The experiments as a table."""
    lines = ["| command | what it is | runs | cost |", "|---|---|---:|---|"]
    for name in EXPERIMENTS:
        entry = EXPERIMENTS[name]
        arguments = f" ARGS={entry.arguments}" if entry.arguments else ""
        lines.append(f"| `make {target(name)}{arguments}` | {entry.title} | {entry.runs} | {entry.cost} |")
    return "\n".join(lines) + "\n"


def commands(name: str, overrides: Sequence[str]) -> list[list[str]]:
    """The command lines of an experiment and of the one that continues it."""
    entry = EXPERIMENTS[name.replace("-", "_")]
    own = [sys.executable, "-m", "farkas_exp", f"experiment={entry.name}", *overrides]
    return [own, *(commands(entry.then, overrides) if entry.then else [])]


def _run(words: Sequence[str]) -> int:
    """Run a command to its end, also where it is asked to stop with this process; return its exit status."""
    with StopRequest(patience=False) as stop, subprocess.Popen(words) as process:
        asked = False
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            if stop.requested and not asked:
                process.terminate()
                asked = True
    return process.returncode


@command(listing)
def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status of the first command that fails, or 0."""
    match list(arguments):
        case [] | ["list"]:
            print(listing(), end="")
        case ["table"]:
            print(markdown(), end="")
        case ["run", name, *overrides]:
            for words in commands(name, overrides):
                if status := _run(words):
                    return status
        case ["mini", *words]:
            return mini.run(words, _run)
        case _:
            raise UserError(f"studies: expected list, table, run NAME or mini, got {' '.join(arguments)!r}")
    return 0


if __name__ == "__main__":
    signals.take_over()
    sys.exit(main(sys.argv[1:]))
