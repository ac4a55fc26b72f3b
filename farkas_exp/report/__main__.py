"""`python -m farkas_exp.report`: see `farkas_exp.report.command`."""

import sys

from farkas_exp.report.command import main

if __name__ == "__main__":
    sys.exit(main())
