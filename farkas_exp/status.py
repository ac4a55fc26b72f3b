"""`python -m farkas_exp.status`, and the console script `farkas-status`: see `farkas_exp.runs.status`."""

import sys

from farkas_exp.machine import signals


def main() -> int:
    """Run the command line of this process and return its exit status."""
    return signals.command("farkas_exp.runs.status")


if __name__ == "__main__":
    sys.exit(main())
