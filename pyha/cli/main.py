"""The `pyha` command: finds the subcommand and runs it.

Knows the subcommands by name only. A subcommand is a module with `add_arguments(parser)`, which sets `run`, a function
from the parsed arguments to an exit status: 0 done, 1 done and something was found wrong. It raises Mistake for what
the operator got wrong. Its module is imported when it is asked for, so that `pyha module-path`, which scripts call,
stays fast.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

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
    words = sys.argv[1:] if argv is None else list(argv)
    parser = _Parser(prog="pyha", description="One virtual PKCS #11 token over several real ones.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in words[:1]:
            import_module(module).add_arguments(command)
    arguments = parser.parse_args(words)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except Mistake as mistake:
        print(f"pyha: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell has it: 128 and SIGINT
    except BrokenPipeError:
        # The reader of a pipe had enough. What Python still holds for stdout at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
