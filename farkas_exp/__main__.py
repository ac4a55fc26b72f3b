"""The command line: `python -m farkas_exp`, and the console script `farkas-exp`."""

import sys

from farkas_exp.machine import signals


def main() -> int:
    """Run the command line of this process and return its exit status."""
    signals.take_over()  # before anything heavy is imported
    from farkas_exp.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
