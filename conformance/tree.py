"""The tree that this stands in: its own build and its own command, whichever tree the interpreter has installed.

What is run here is what was built here. Python's variables could not say so: clients get an environment without them.
"""

import shlex
import sys
from pathlib import Path

from pyha.cli import module_path

ROOT = Path(__file__).resolve().parents[1]

PYHA = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pyha.cli.main import main; sys.exit(main())",
)
"""The `pyha` command."""


def module() -> str:
    """The built PKCS #11 module. Raises FileNotFoundError with what to do."""
    found = module_path.find(ROOT / "pyha")
    if found is None:
        raise FileNotFoundError(f"{ROOT}/build has no {module_path.MODULE}: run `make build`")
    return str(found)


def write_command(directory: Path) -> None:
    """Makes `directory` (new), to be put into PATH, with the program `pyha` in it."""
    directory.mkdir()
    program = directory / "pyha"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PYHA)} "$@"\n')
    program.chmod(0o700)
