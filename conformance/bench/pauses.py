"""How long an application waits when a member fails: every operation of a process is timed while it happens.

Each round is a process of its own that signs in a few threads; the group's first member fails in the middle of it, is
repaired, and comes back.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from conformance.bench.driver import Driver, DriverFailed
from conformance.bench.findings import Pause, Trace
from conformance.bench.groups import TOKEN, Rehearsal, member_names
from conformance.burst import helper_of
from conformance.stage import Unexpected
from pyha.ha.settings import RecoverySettings
from pyha.runtime.settings import GroupSettings

MEMBERS, THREADS, OPERATION = 3, 4, "sign-p256"
DEADLINE = 1.0
"""Seconds of the group's deadline."""

AIM = 50.0
"""Milliseconds that an application may notice, more than the deadline where a member hangs."""

BEFORE, GONE, AFTER = 1.0, DEADLINE + 0.5, 3.0
"""Seconds until the member fails, until it is repaired, and then until the end."""

_VICTIM = member_names(MEMBERS)[0]

Fail = Callable[[Rehearsal, Driver], None]


def _kill(group: Rehearsal, driver: Driver) -> None:
    os.kill(helper_of(driver.pid, f"{TOKEN}/{_VICTIM}"), signal.SIGKILL)


def _unplug(group: Rehearsal, driver: Driver) -> None:
    group.plan(_VICTIM, "add", "any -> dead CKR_DEVICE_REMOVED")


def _hang(group: Rehearsal, driver: Driver) -> None:
    group.plan(_VICTIM, "add", "any -> hang")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to fail. `aim`: milliseconds."""

    title: str
    fail: Fail
    aim: float


WAYS = (
    Way("its helper is killed", _kill, AIM),
    Way("its module answers CKR_DEVICE_REMOVED", _unplug, AIM),
    Way("its module hangs", _hang, 1000 * DEADLINE + AIM),
)


def measure(rounds: int, directory: Path, program: Path, say: Callable[[str], None]) -> list[Pause]:
    """One for each way. Raises DriverFailed, RuntimeError, Unexpected."""
    group = Rehearsal(directory / "pauses", MEMBERS)
    target = group.target("pauses", _impatient)
    found = [Pause(way.title, way.aim) for way in WAYS]
    for turn in range(rounds):
        for way, pause in zip(WAYS, found, strict=True):
            say(f"a member fails: {way.title}, round {turn + 1}")
            with target.driver(program) as driver:
                driver.ask("open")
                driver.ask("keys")
                pause.traces.append(_trace(group, driver, way, directory / "trace"))
    return found


def _impatient(group: GroupSettings) -> GroupSettings:
    return replace(group, deadline=DEADLINE, slow_deadline=DEADLINE, recovery=RecoverySettings(interval=1.0))


class _Event(threading.Thread):
    """Lets the member fail and repairs it while the driver works. `at`: seconds of the monotonic clock of the two."""

    def __init__(self, group: Rehearsal, driver: Driver, way: Way) -> None:
        super().__init__()
        self.at: list[float] = []
        self.trouble: Exception | None = None
        self._group, self._driver, self._way = group, driver, way

    def run(self) -> None:
        try:
            time.sleep(BEFORE)
            self.at.append(time.monotonic())
            self._way.fail(self._group, self._driver)
            time.sleep(GONE)
            self.at.append(time.monotonic())
            self._group.plan(_VICTIM, "clear")
        except (OSError, RuntimeError, Unexpected) as trouble:
            self.trouble = trouble


def _trace(group: Rehearsal, driver: Driver, way: Way, file: Path) -> Trace:
    event = _Event(group, driver, way)
    event.start()
    try:
        length = round(1000 * (BEFORE + GONE + AFTER))
        _, failures = driver.ask(f"trace {OPERATION} {THREADS} {length} {file}")
    finally:
        event.join()
    if event.trouble is not None:
        raise DriverFailed(f"{way.title}: {event.trouble}")
    failed, repaired = event.at
    return Trace.parse(file.read_text(), failed, repaired, int(failures), len(driver.helpers()) == MEMBERS)
