"""One suite on one target: runs its steps in a scratch directory, each in processes of its own with a limit.

Knows processes, nothing of PKCS #11. Whatever a step started is ended with the step.
"""

import os
import re
import signal
import socket
import string
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.burst import helper_of
from conformance.stage import Unexpected
from conformance.steps import Failed, Step, Suite
from conformance.targets import LOSS, MEMBERS, Target, clean_environment

_SLICE = 0.05
_BLOB = re.compile(r"\b(?:[0-9a-f]{2}:?){16,}\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a step. `lines`: first how it ended, then what is compared of its output. `output`: all of it.
    `killed`: how many helpers died meanwhile. `said`: what the module logged."""

    step: str
    lines: tuple[str, ...]
    output: str
    seconds: float
    killed: int
    said: str

    @property
    def good(self) -> bool:
        """Whether the client was content."""
        return self.lines[0] == "exit 0"


class Scene:
    """The scratch directory of a suite on a target. Functions of steps use `shell`, `start`, `wait_for_port`, `stop`,
    `lose_member` and `lose_each`."""

    def __init__(self, suite: Suite, target: Target, directory: Path) -> None:
        self.suite, self.target, self.directory = suite, target, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.variables = {
            **target.variables(),
            "SCRATCH": str(directory),
            "SUITES": str(Path(__file__).parent / "suites"),
        }
        changes = {name: self.fill(text) for name, text in suite.environment.items()}
        reach = {
            name: target.environment[name] for name in ("SOFTHSM2_CONF", "PYHA_CONF") if name in target.environment
        }
        self.environment = clean_environment(directory, {**reach, **self.variables, **changes})
        for name, text in suite.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.fill(text))
            path.chmod(0o700 if text.startswith("#!") else 0o600)
        self._servers: list[subprocess.Popen[str]] = []
        self._killed = 0

    def fill(self, text: str) -> str:
        """The text with the target's variables; other dollars stay."""
        return string.Template(text).safe_substitute(self.variables)

    # -- steps --------------------------------------------------------------------------------------------------

    def play(self, step: Step) -> Result:
        """Run one step. Raises nothing that a client could cause."""
        if step.spared:
            self.target.plan_none()
        else:
            self.target.plan_loss(step.name, step.changes or self.suite.pinned)
        before, deaths, said = time.monotonic(), self.target.deaths(), len(self.target.logged())
        self._killed = 0
        try:
            end, output = self._do(step)
        finally:
            self.stop()
        lines = [line for line in self._normalised(output, step) if step.keep is None or _kept(step.keep, line)]
        killed = self.target.deaths() - deaths + self._killed
        seconds = time.monotonic() - before
        return Result(step.name, (end, *lines), output, seconds, killed, self.target.logged()[said:])

    def _do(self, step: Step) -> tuple[str, str]:
        if isinstance(step.does, str):
            return self.shell(step.does, step.limit)
        try:
            return "exit 0", "\n".join(step.does(self))
        except (Failed, OSError, ValueError) as failure:
            return "failed", str(failure)

    def _normalised(self, output: str, step: Step) -> list[str]:
        target = self.target
        for value, name in (
            (str(self.directory), "<scratch>"),
            (target.module, "<module>"),
            (target.serial, "<serial>"),
            (f"{target.slot:#x}", "<slot>"),
            (str(target.slot), "<slot>"),
        ):
            output = output.replace(value, name)
        if step.hide:
            output = re.sub(step.hide, "<random>", output, flags=re.MULTILINE)
        output = _BLOB.sub("<bytes>", output)
        lines = [line.rstrip() for line in output.splitlines() if line.strip()]
        return sorted_blocks(lines) if step.blocks else lines

    # -- processes ----------------------------------------------------------------------------------------------

    def shell(self, line: str, limit: float = 60.0) -> tuple[str, str]:
        """Run a shell line: how it ended ("exit 0", "signal 11", "hang") and what it wrote, stderr at the end."""
        with (self.directory / ".errors").open("w+", errors="replace") as errors:
            process = self._open(["/bin/bash", "-e", "-o", "pipefail", "-c", line], subprocess.PIPE, errors)
            output, late = "", False
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                late = True
            _end(process)
            if late:
                # Whatever left the process group keeps the pipe open: it is not waited for long.
                with suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=5)
            errors.seek(0)
            output += errors.read()
        status = process.returncode
        number = -status if status < 0 else status - 128 if status > 128 else 0
        return "hang" if late else f"signal {number}" if number else f"exit {status}", output

    def must(self, line: str, limit: float = 60.0) -> str:
        """`shell`, where anything but exit status 0 fails the step. Raises Failed."""
        end, output = self.shell(line, limit)
        if end != "exit 0":
            raise Failed(f"{line}\n{end}\n{output}")
        return output

    def start(self, command: Sequence[str], log: str) -> subprocess.Popen[str]:
        """A server that lives until `stop`; it writes to the file `log`."""
        with (self.directory / log).open("w") as output:
            process = self._open(list(command), output, subprocess.STDOUT)
        self._servers.append(process)
        return process

    def _open(self, command: list[str], output: Any, errors: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def wait_for_port(self, port: int, server: subprocess.Popen[str], limit: float = 20.0) -> None:
        """Until the server listens on 127.0.0.1. Raises Failed."""
        end = time.monotonic() + limit
        while time.monotonic() < end and server.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(_SLICE)
        raise Failed(f"the server did not listen on port {port} (status {server.poll()})")

    def stop(self) -> None:
        """End every server."""
        for process in self._servers:
            _end(process)
            process.wait()
        self._servers.clear()

    def lose_member(self) -> int:
        """Kill the helper of one member in every server of this scene, where the target is to lose one: how many."""
        if self.target.name != LOSS:
            return 0
        return len(self._kill(MEMBERS[-1 if self.suite.pinned else 0]))

    def lose_each(self, over: Callable[[], bool] = lambda: False) -> int:
        """`lose_member` for one member after the other, each when the one before is in again in every server: how many
        helpers were killed. It ends early when it is `over`. Raises Failed where a member does not return."""
        if self.target.name != LOSS:
            return 0
        killed = 0
        for member in MEMBERS:
            before = len(self.target.logged())
            waiting = self._kill(member)
            killed += len(waiting)

            def returned(member: str = member, before: int = before, waiting: list[int] = waiting) -> bool:
                lines = [line for line in self.target.logged()[before:].splitlines() if f"member {member} ret" in line]
                return over() or all(any(f"pyha[{process}]" in line for line in lines) for process in waiting)

            until(returned, f"{member} did not return", 60)
        return killed

    def _kill(self, member: str) -> list[int]:
        """The processes whose helper of this member was killed."""
        found = []
        for process in _processes({server.pid for server in self._servers}):
            with suppress(Unexpected, OSError):
                os.kill(helper_of(process, f"{self.target.label}/{member}"), signal.SIGKILL)
                found.append(process)
        self._killed += len(found)
        return found


def sorted_blocks(lines: Sequence[str]) -> list[str]:
    """Lines with the indented ones below them, put in order."""
    blocks: list[list[str]] = []
    for line in lines:
        if line[:1].isspace() and blocks:
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return [
        line
        for block in sorted(blocks, key=lambda block: [re.sub("Access: .*", "", each) for each in block])
        for line in block
    ]


def until(holds: Callable[[], bool], otherwise: str, limit: float = 20.0) -> None:
    """Wait for something that tells no one when it happens. Raises Failed with `otherwise`."""
    end = time.monotonic() + limit
    while not holds():
        if time.monotonic() > end:
            raise Failed(otherwise)
        time.sleep(_SLICE)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kept(pattern: str, line: str) -> bool:
    return bool(pattern) and re.search(pattern, line) is not None


def _end(process: subprocess.Popen[str]) -> None:
    """The process and all that it started in its session's group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _processes(sessions: set[int]) -> list[int]:
    """All processes of these sessions."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if os.getsid(int(entry.name)) in sessions:
                    found.append(int(entry.name))
    return found
