"""How a command says that it cannot do what was asked, or that something is to be known about it."""

import sys


class Mistake(Exception):
    """Something the operator asked for cannot be. `str()` is one clear sentence, which goes to stderr; exit status
    2."""


def warn(text: str) -> None:
    """One line on stderr; the exit status does not change."""
    print(f"pyha: warning: {text}", file=sys.stderr)
