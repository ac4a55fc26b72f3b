"""`python -m farkas_exp.best`: see `farkas_exp.runs.best`."""

import sys

from farkas_exp.machine import signals

if __name__ == "__main__":
    sys.exit(signals.command("farkas_exp.runs.best"))
