"""The command line: `python -m farkas_exp`, and the console script `farkas-exp`."""

import sys

from farkas_exp.machine import signals


def main() -> int:
    """Run the command line of this process and return its exit status."""
    return signals.command("farkas_exp.launch.cli")


if __name__ == "__main__":
    sys.exit(main())
