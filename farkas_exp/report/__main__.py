"""`python -m farkas_exp.report`, and the console script `farkas-report`: see `farkas_exp.report.command`."""

import sys
from functools import partial

from farkas_exp.machine import signals

main = partial(signals.command, "farkas_exp.report.command")
"""Run the command line of this process and return its exit status."""

if __name__ == "__main__":
    sys.exit(main())
