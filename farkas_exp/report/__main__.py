"""`python -m farkas_exp.report`, and the console script `farkas-report`: see `farkas_exp.report.command`."""

import sys

from farkas_exp.machine import signals


def main() -> int:
    """Run the command line of this process and return its exit status."""
    return signals.command("farkas_exp.report.command")


if __name__ == "__main__":
    sys.exit(main())
