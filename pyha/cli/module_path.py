"""`pyha module-path`: where the PKCS #11 module is, for scripts and configuration files."""

import argparse
import sys
from pathlib import Path

import pyha

MODULE = "pyha-pkcs11.so"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""
    parser.set_defaults(run=run)


def find(package: Path) -> Path | None:
    """The module that belongs to the package in the directory `package`: inside it once installed, in build/ beside it
    in a source tree; None where neither is there."""
    for path in (package / "_native" / MODULE, package.parent / "build" / MODULE):
        if path.is_file():
            return path
    return None


def run(arguments: argparse.Namespace) -> int:
    """Prints the absolute path; 1 where there is none."""
    path = find(Path(pyha.__file__).resolve().parent)
    if path is None:
        print(f"pyha: {MODULE} is not built: run `make build` in the source tree, or `pip install .`", file=sys.stderr)
        return 1
    print(path)
    return 0
