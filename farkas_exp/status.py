"""`python -m farkas_exp.status`: see `farkas_exp.runs.status`."""

import sys

from farkas_exp.machine import signals

if __name__ == "__main__":
    sys.exit(signals.command("farkas_exp.runs.status"))
