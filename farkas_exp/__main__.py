"""The command line: `python -m farkas_exp`, and the console script `farkas-exp`."""

import sys

from farkas_exp import __version__
from farkas_exp.machine import signals

COMMANDS = {
    "compare": "farkas_exp.report.compare",
    "evaluate": "farkas_exp.trained.evaluate",
    "export": "farkas_exp.trained.export",
    "prune": "farkas_exp.runs.prune",
}
"""What is done with runs that are there: the module whose `main` does it, by the first word of the command line."""


def main() -> int:
    """Run the command line of this process and return its exit status."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first == "--version":
        print(f"farkas_exp {__version__}")
        return 0
    if first in COMMANDS:
        del sys.argv[1]
        return signals.command(COMMANDS[first])
    if first.isalpha():
        print(f"error: {first}: neither KEY=VALUE nor a command ({', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    return signals.command("farkas_exp.launch.cli")


if __name__ == "__main__":
    sys.exit(main())
