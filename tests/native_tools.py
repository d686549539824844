"""C programs and builds of the module for tests: compiled once, run with a limit."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import build_shim

NATIVE = Path(__file__).parent / "native"

LIMIT = 60.0
"""Seconds after which a program counts as hung."""


def compile_c(source: Path, output: Path, *flags: str) -> Path:
    """Compiles one C program or library with warnings as errors.

    Raises AssertionError with the compiler's text.
    """
    command = ["cc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(output), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program with exactly this environment, empty by default. Raises TimeoutExpired where it hangs."""
    return subprocess.run(
        [str(part) for part in command],
        env=dict(environment or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
    )


def build_module(out: Path, entry: str = "trap_entry", library: tuple[str, ...] | None = None) -> Path:
    """The module, built with another Python part (a module of tests/native) or for another library of Python."""
    python = build_shim.Python.running()
    target = build_shim.Target(
        out=out,
        packages=str(build_shim.ROOT),
        entry=entry,
        library=library,
        sites=(str(NATIVE), *python.sites),
        python=python,
    )
    return build_shim.build(target)[0]


def path_environment() -> dict[str, str]:
    """The environment a compiler or an interpreter needs, and no more."""
    return {"PATH": os.environ["PATH"]}
