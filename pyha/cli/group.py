"""`pyha group create | list | show`.

Talks to the operator; what is done on tokens is in `pyha.runtime.founding`. Each command has its own module-level
function that returns the exit status.
"""

import argparse

from pyha.cli import group_create, group_show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`create`, `list` and `show`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    group_create.add_arguments(actions)
    group_show.add_arguments(actions)
