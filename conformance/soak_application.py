"""One application of `make soak`, seen from outside: what it is told, what it tells.

Knows the process and the lines that `soak_load` reads and writes; nothing of members.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from conformance.soak_group import SoakGroup
from conformance.stage import Unexpected


class SoakApplication:
    """A running application. `told`: the latest of each thing it said; `calm`: set when it makes and deletes nothing;
    `failures`: of all applications, where it adds its own."""

    def __init__(self, group: SoakGroup, name: str, threads: int, seed: str, failures: list[str]) -> None:
        self.name = name
        self.told: dict[str, Any] = {}
        self.calm = threading.Event()
        self._failures = failures
        self._errors = (group.directory / f"application-{name}.log").open("w+")
        words = [group.module, group.label, str(threads), f"{seed} {name}", f"{name}-"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "conformance.soak_load", *words],
            cwd=Path(__file__).parents[1],
            env=group.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def count(self) -> dict[str, int]:
        """Operations done, by kind."""
        return dict(self.told.get("done") or self.told.get("count", {}))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "failed" in told:
                self._failures.append(f"application {self.name}, {told['failed']}")
            if "calm" in told:
                self.calm.set()
            self.told.update(told)

    def tell(self, line: str) -> None:
        """One line for it. Raises Unexpected."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Unexpected(f"application {self.name} is gone") from None

    def expect_running(self) -> None:
        """Raises Unexpected."""
        if self._process.poll() is not None:
            raise Unexpected(f"application {self.name} ended with status {self._process.returncode}")

    def end(self, limit: float) -> None:
        """Let it finish, `limit` seconds at most. Raises Unexpected where it does not, or not well."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Unexpected(f"application {self.name} did not end") from None
        self._reader.join()
        self._errors.seek(0)
        said = self._errors.read()
        if status != 0 or "done" not in self.told or said:
            raise Unexpected(f"application {self.name} ended with status {status}: {said}")

    def kill(self) -> None:
        """Whatever happened, nothing is left."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        sys.stderr.write(self._errors.read())
        self._errors.close()
