"""`python -m farkas_exp`: the command line."""

import sys

from farkas_exp.cli import main

if __name__ == "__main__":
    sys.exit(main())
