"""What a process costs that has a module loaded and does nothing: CPU time and wake-ups, from /proc.

All are idle at the same time, which disturbs none of them.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from conformance.bench.driver import Driver
from conformance.bench.findings import Idle
from conformance.bench.groups import SOFTHSM, TOKEN, Rehearsal, Target, make_store, member_names
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime.settings import GroupSettings

MEMBERS = 3
INTERVAL = 5.0
"""Seconds between recovery attempts where a member is out."""

_SETTLED = 2.0
"""Seconds after which the status has been published and nothing of the start is left."""


@dataclass(frozen=True, slots=True)
class _Used:
    """Since the process began: nanoseconds of CPU time, and how often a thread of it went to sleep."""

    nanoseconds: int
    sleeps: int


def measure(seconds: float, directory: Path, program: Path, say: Callable[[str], None]) -> list[Idle]:
    """Raises DriverFailed, RuntimeError."""
    group = Rehearsal(directory / "idle", MEMBERS)
    lame = Rehearsal(directory / "idle-lame", MEMBERS)
    lame.plan(member_names(MEMBERS)[0], "add", "any -> dead CKR_DEVICE_REMOVED")
    kinds: list[tuple[str, Target, str]] = [
        ("SoftHSM direct, logged in", Target("", SOFTHSM, make_store(directory / "idle-plain", [TOKEN])), "open"),
        ("slot 3, initialised and not used", group.target("unused"), "load"),
        ("slot 3, logged in, recovery in the background", group.target("background"), "open"),
        ("slot 3, logged in, recovery on call", group.target("on-call", _on_call), "open"),
        (f"slot 3, one member out, tried every {INTERVAL:g} s", lame.target("lame", _tried), "open"),
    ]
    with ExitStack() as stack:
        drivers = []
        for _, target, line in kinds:
            driver = stack.enter_context(target.driver(program))
            driver.ask(line)
            drivers.append(driver)
        time.sleep(_SETTLED)
        say(f"idle for {seconds:g} s")
        start, before = time.monotonic(), [_look(driver) for driver in drivers]
        time.sleep(seconds)
        passed, after = time.monotonic() - start, [_look(driver) for driver in drivers]
    return [
        _idle(title, passed, *earlier, *later)
        for (title, _, _), earlier, later in zip(kinds, before, after, strict=True)
    ]


def _on_call(group: GroupSettings) -> GroupSettings:
    return replace(group, recovery=RecoverySettings(RecoveryMode.ON_CALL))


def _tried(group: GroupSettings) -> GroupSettings:
    return replace(group, recovery=RecoverySettings(interval=INTERVAL))


def _look(driver: Driver) -> tuple[_Used, _Used]:
    """The process, and its helpers together."""
    return _used([driver.pid]), _used(driver.helpers())


def _used(processes: Sequence[int]) -> _Used:
    nanoseconds = sleeps = 0
    for process in processes:
        for thread in Path(f"/proc/{process}/task").iterdir():
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
            status = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
            sleeps += int(status["voluntary_ctxt_switches"])
    return _Used(nanoseconds, sleeps)


def _idle(title: str, seconds: float, own: _Used, theirs: _Used, own_after: _Used, theirs_after: _Used) -> Idle:
    def milliseconds(before: _Used, after: _Used) -> float:
        return (after.nanoseconds - before.nanoseconds) / 1e6 / seconds * 60

    def wakeups(before: _Used, after: _Used) -> float:
        return (after.sleeps - before.sleeps) / seconds

    return Idle(
        title,
        seconds,
        milliseconds(own, own_after),
        wakeups(own, own_after),
        milliseconds(theirs, theirs_after),
        wakeups(theirs, theirs_after),
    )
