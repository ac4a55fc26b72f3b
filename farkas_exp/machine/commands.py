"""What the small commands have in common: help, patience with their output, a user's mistake in one line."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.home import check_folder, ensure_home
from farkas_exp.machine.output import patient, warn
from farkas_exp.machine.terminal import printable

Main = Callable[..., int]


def command(help: Callable[[], str] | str) -> Callable[[Callable[[Sequence[str]], object]], Main]:
    """Make a `main(arguments=None)` of a function of the arguments (of this process by default).

    It returns the exit status: what the function returns (None: 0), or 2 after a one-line message for a `UserError` or
    a file that cannot be read or written.
    """

    def decorate(act: Callable[[Sequence[str]], object]) -> Main:
        @patient()
        def main(arguments: Sequence[str] | None = None) -> int:
            given = list(sys.argv[1:] if arguments is None else arguments)
            if {"-h", "--help", "help"} & set(given):
                print(help if isinstance(help, str) else help(), end="")
                return 0
            ensure_home()  # matplotlib, W&B and PyTorch ask for one
            try:
                check_folder()
                status = act(given)
            except UserError as error:
                warn(f"error: {printable(error)}")
                return 2
            except OSError as error:
                file = error.filename2 or error.filename or "this command"
                warn(f"error: {printable(file)}: {error.strerror or error}")
                return 2
            return status if isinstance(status, int) else 0

        return main

    return decorate


def check_counts(given: Namespace, names: Iterable[str]) -> None:
    """Check that these numbers of a command line are at least 1.

    Raises:
        UserError: the first that is not.
    """
    for name in names:
        if (value := getattr(given, name)) < 1:
            raise UserError(f"--{name}: {value} is out of range; it must be at least 1")
