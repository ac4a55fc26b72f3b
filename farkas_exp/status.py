"""`python -m farkas_exp.status`: see `farkas_exp.runs.status`."""

import sys

from farkas_exp.runs.status import main

if __name__ == "__main__":
    sys.exit(main())
