"""`python -m farkas_exp.best`, and the console script `farkas-best`: see `farkas_exp.runs.best`."""

import sys

from farkas_exp.machine import signals


def main() -> int:
    """Run the command line of this process and return its exit status."""
    return signals.command("farkas_exp.runs.best")


if __name__ == "__main__":
    sys.exit(main())
