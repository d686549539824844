"""The `pyha` command: finds the subcommand and runs it.

Knows the subcommands by name only. A subcommand is a module with `add_arguments(parser)`, which sets `run`, a function
from the parsed arguments to an exit status: 0 done, 1 done and something was found wrong. It raises Mistake for what
the operator got wrong. Its module is imported when it is asked for, so that `pyha module-path`, which scripts call,
stays fast. Who ends it (Ctrl-C, SIGTERM, a terminal that is gone) ends it as an exception, so that nothing stays
half-made.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from pyha.cli import interrupts
from pyha.cli.errors import Mistake

COMMANDS = {
    "chaos": ("pyha.cli.chaos", "faults for rehearsals: plans that a member's module obeys"),
    "config": ("pyha.cli.config", "check the configuration"),
    "domain": ("pyha.cli.domain", "domain keys: compare them, try their doors, restore them"),
    "group": ("pyha.cli.group", "make and show groups"),
    "module-path": ("pyha.cli.module_path", "print where the PKCS #11 module is"),
    "status": ("pyha.cli.status", "how the processes that use a group see its members"),
}
"""Name -> (module, one line of help)."""


class _Parser(argparse.ArgumentParser):
    """argparse with one sentence in place of a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"pyha: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (without the program's name) and gives back the exit status."""
    _fill_closed()
    words = sys.argv[1:] if argv is None else list(argv)
    parser = _Parser(prog="pyha", description="One virtual PKCS #11 token over several real ones.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in words[:1]:
            import_module(module).add_arguments(command)
    arguments = parser.parse_args(words)
    try:
        with interrupts.ending():
            status = int(arguments.run(arguments))
            sys.stdout.flush()
            return status
    except Mistake as mistake:
        print(f"pyha: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as ended:
        return 128 + interrupts.number(ended)  # as a shell has it
    except BrokenPipeError:
        _drop_output()  # the reader of a pipe had enough
        return 1
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"pyha: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def _fill_closed() -> None:
    """What is written to a standard stream that is closed goes nowhere, and not into a file that was opened later."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _drop_output() -> None:
    """What Python still holds for stdout at its end goes nowhere: there is nobody to complain to any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
