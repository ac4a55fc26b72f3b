"""`python -m farkas_exp.best`: see `farkas_exp.runs.best`."""

import sys

from farkas_exp.runs.best import main

if __name__ == "__main__":
    sys.exit(main())
