"""How long it takes to fill a member that lacks many objects, by `pyha group sync` and by its recovery in an
application, beside plain programs: one that creates the same objects on the same token, and one that makes all the
calls that a resync has to make on both (`copy.c`), which is what resyncs are compared with.

In a round each of the four gets a copy of the same empty member, one after the other. Each member of the group has a
store of its own, so that no helper reads another one's objects; the plain program that copies has both tokens in one.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from conformance import tree
from conformance.bench.driver import PATIENCE, Driver, DriverFailed, compile_driver
from conformance.bench.findings import Filling, Spent
from conformance.bench.groups import (
    PIN,
    SOFTHSM,
    TOKEN,
    make_group,
    make_store,
    member_names,
    rewrite,
    run,
)
from pyha.ha.settings import RecoverySettings
from pyha.runtime.settings import GroupSettings, LogLevel

FULL, EMPTY = member_names(2)

_LOOK = 0.01
"""Seconds between two looks at the log."""
_LONGEST = 0.2
"""Seconds an object may take where much other work is running."""


def measure(
    counts: Sequence[int], rounds: int, directory: Path, program: Path, say: Callable[[str], None]
) -> list[Filling]:
    """One for each number of objects. Raises DriverFailed, RuntimeError."""
    found = []
    for count in counts:
        say(f"a member with {count} objects")
        stage = _Stage(directory / f"resync-{count}", program, count)
        filling = Filling(count)
        for turn in range(rounds):
            say(f"{count} objects onto an empty one, round {turn + 1}")
            filling.created.append(stage.created())
            filling.copied.append(stage.copied())
            filling.sync.append(stage.sync())
            filling.recovery.append(stage.recovery())
        found.append(filling)
    return found


class _Stage:
    """A group of two: one that holds all, and one that holds nothing but the domain keys."""

    def __init__(self, directory: Path, program: Path, count: int) -> None:
        self._directory, self._program, self._count = directory, program, count
        together = make_store(directory / "together", [FULL, EMPTY])
        made = make_group(directory / "together", 2, together)
        with self._driver(together, FULL) as driver:
            driver.ask("open")
            driver.ask(f"fill {count}")
        self._empty = directory / "empty"
        self._stores = {name: make_store(directory / name, ()) for name in (FULL, EMPTY)}
        for token in sorted((directory / "together" / "tokens").iterdir(), key=lambda each: len(list(each.iterdir()))):
            token.rename(self._tokens(FULL) / "token" if self._empty.exists() else self._empty)
        self._copy = compile_driver(directory, "copy")
        self._both = make_store(directory / "both", ())
        shutil.copytree(self._tokens(FULL) / "token", self._tokens("both") / "full")
        self._conf = directory / "pyha.toml"
        self._log = directory / "pyha.log"
        rewrite(made, self._conf, self._apart, log=f"file:{self._log}", level=LogLevel.NOTICE)

    def _apart(self, group: GroupSettings) -> GroupSettings:
        """Each member with a store of its own, and tried again soon."""
        members = tuple(
            replace(member, environment={"SOFTHSM2_CONF": self._stores[member.name]["SOFTHSM2_CONF"]})
            for member in group.members
        )
        return replace(group, members=members, recovery=RecoverySettings(interval=0.2))

    def _tokens(self, name: str) -> Path:
        return self._directory / name / "tokens"

    def _lacks(self, store: str = EMPTY) -> None:
        """The store has no empty token."""
        shutil.rmtree(self._tokens(store) / "token", ignore_errors=True)

    def _arrives(self, store: str = EMPTY) -> None:
        """It has one again."""
        self._lacks(store)
        shutil.copytree(self._empty, self._directory / "coming")
        (self._directory / "coming").rename(self._tokens(store) / "token")

    def _driver(self, environment: Mapping[str, str], token: str) -> Driver:
        return Driver(self._reaped([str(self._program), SOFTHSM, token, PIN]), environment)

    def _reaped(self, command: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "conformance.bench.reaped", str(self._directory / "spent"), *command]

    def _spent(self) -> Spent:
        return Spent(*map(float, (self._directory / "spent").read_text().split()))

    def created(self) -> Spent:
        """A plain program that only creates."""
        self._arrives()
        with self._driver(self._stores[EMPTY], EMPTY) as driver:
            driver.ask("open")
            start = time.monotonic()
            driver.ask(f"fill {self._count}")
            taken = time.monotonic() - start
        return replace(self._spent(), wall=taken)

    def copied(self) -> Spent:
        """A plain program that makes the calls of a resync."""
        self._arrives("both")
        command = [str(self._copy), SOFTHSM, FULL, EMPTY, PIN, str(self._count)]
        taken = float(run(self._reaped(command), self._both))
        return replace(self._spent(), wall=taken)

    def sync(self) -> Spent:
        """`pyha group sync`."""
        self._arrives()
        command = [*tree.PYHA, "group", "sync", TOKEN, "--pin-source", "env:MEMBERS_PIN"]
        run(self._reaped(command), {**self._stores[FULL], "PYHA_CONF": str(self._conf), "MEMBERS_PIN": PIN})
        return self._spent()

    def recovery(self) -> Spent:
        """An application's, which goes on: from the beginning of the attempt that finds the token until it serves."""
        self._lacks()
        self._log.unlink(missing_ok=True)
        environment = {**self._stores[FULL], "PYHA_CONF": str(self._conf)}
        with Driver(self._reaped([str(self._program), tree.module(), TOKEN, PIN]), environment) as driver:
            driver.ask("open")
            self._wait("recovery attempt")
            self._arrives()
            start = time.monotonic()
            self._wait(f"{EMPTY} returned")
            taken = time.monotonic() - start
        return replace(self._spent(), wall=taken)

    def _wait(self, for_what: str) -> None:
        """Until the log says so. Raises DriverFailed."""
        end = time.monotonic() + PATIENCE + _LONGEST * self._count
        while not self._log.exists() or for_what not in self._log.read_text():
            if time.monotonic() >= end:
                raise DriverFailed(f"never in the log: {for_what}")
            time.sleep(_LOOK)
