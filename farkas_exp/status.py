"""`python -m farkas_exp.status`, and the console script `farkas-status`: see `farkas_exp.runs.status`."""

import sys
from functools import partial

from farkas_exp.machine import signals

main = partial(signals.command, "farkas_exp.runs.status")
"""Run the command line of this process and return its exit status."""

if __name__ == "__main__":
    sys.exit(main())
