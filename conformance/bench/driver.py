"""The C program that makes the calls: compiled, started, asked, and looked at in /proc."""

import os
import select
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 300.0
"""Seconds after which an answer counts as never coming."""


class DriverFailed(Exception):
    """The program ended, hung, or said that a call was refused: which."""


def compile_driver(directory: Path, name: str = "drive") -> Path:
    """The program, of the source with this name. Raises CalledProcessError."""
    program = directory / name
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-I/usr/include/p11-kit-1", "-pthread"]
    subprocess.run(["cc", *flags, str(Path(__file__).with_name(f"{name}.c")), "-o", str(program), "-ldl"], check=True)
    return program


class Driver:
    """One process with one module."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def ask(self, line: str) -> list[str]:
        """The words of the answer behind "ok". Raises DriverFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
        except BrokenPipeError:
            raise DriverFailed(f"{line}: the program has ended") from None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._process.kill()
            raise DriverFailed(f"{line}: no answer")
        verdict, _, rest = self._process.stdout.readline().strip().partition(" ")
        if verdict != "ok":
            raise DriverFailed(f"{line}: {rest or 'the program ended'}")
        return rest.split()

    def close(self) -> None:
        """C_Finalize, and the end."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def memory(self) -> int:
        """Proportional set size of the application, KiB."""
        return pss(self._process.pid)

    def helpers(self) -> list[int]:
        """Process ids of the helpers: the application holds a pidfd of each."""
        found = set()
        for entry in Path(f"/proc/{self._process.pid}/fdinfo").iterdir():
            for line in entry.read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Pid" and int(value) != self._process.pid:
                    found.add(int(value))
        return sorted(found)


def children(process: int) -> list[int]:
    """A process and those that descend from it."""
    found = [process]
    for thread in Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text().split():
            found += children(int(child))
    return found


def pss(process: int) -> int:
    """Proportional set size, KiB. Raises OSError."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
