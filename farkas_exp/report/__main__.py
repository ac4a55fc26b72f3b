"""`python -m farkas_exp.report`, and the console script `farkas-report`: see `farkas_exp.report.command`."""

import sys

from farkas_exp.machine import signals


def main() -> int:
    """Run the command line of this process and return its exit status."""
    signals.take_over()  # before anything heavy is imported
    from farkas_exp.report.command import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
