"""`python -m farkas_exp.best`, and the console script `farkas-best`: see `farkas_exp.runs.best`."""

import sys
from functools import partial

from farkas_exp.machine import signals

main = partial(signals.command, "farkas_exp.runs.best")
"""Run the command line of this process and return its exit status."""

if __name__ == "__main__":
    sys.exit(main())
