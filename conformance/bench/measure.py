"""One run of the benchmark: who is asked what, in which order.

All targets are open at once, each in a process of its own that sleeps while it is not its turn. A round gives each of
them one short slice; the order turns with the rounds, so that nobody is always measured behind the same neighbour.
"""

import compileall
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyha
from conformance.bench import idle, pauses, resyncing, scaling
from conformance.bench.driver import Driver, DriverFailed, children, compile_driver, cores, pss
from conformance.bench.groups import Target
from conformance.bench.result import OPERATIONS, Crowd, Memory, Operation, Result, Startup
from conformance.bench.slices import Slice
from conformance.bench.targets import TARGETS, Stores, Unusable
from conformance.stage import Unexpected

CROWDS = (1, 100, 1000)
"""Idle sessions beside the one that works."""

SPEED, MEMBERS, PAUSES, IDLE, RESYNC = PARTS = ("speed", "members", "pauses", "idle", "resync")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """`parts`: of PARTS. `milliseconds`: of one slice. `objects`: in the store for searches, 0 for no searches. `only`:
    operations by name, empty for all. `latency_milliseconds`: of one slice with slow members. `idle`: seconds.
    `filled`: how many objects a member lacks at its resync."""

    parts: Sequence[str] = PARTS
    targets: Sequence[str] = TARGETS
    rounds: int = 7
    milliseconds: int = 200
    threads: Sequence[int] = (1, 4, 16)
    objects: int = 10000
    only: Sequence[str] = ()
    latency_milliseconds: int = 1500
    pauses: int = 3
    idle: float = 20.0
    filled: Sequence[int] = (2000, 10000)


class Bench:
    """`directory`: for stores and the driver. `say`: what is going on now."""

    def __init__(self, plan: Plan, directory: Path, say: Say) -> None:
        self._plan = plan
        self._directory = directory
        self._say = say
        self._program = compile_driver(directory)
        # As an installation does: the module itself never writes bytecode, and would compile at every start.
        compileall.compile_dir(str(Path(pyha.__file__).parent), quiet=1)
        machine = f"{cores()} cores, CPython {platform.python_version()}, Linux {platform.release().split('-')[0]}"
        self.result = Result(
            list(plan.targets), machine, list(plan.threads), plan.rounds, plan.milliseconds, plan.objects
        )

    def run(self) -> Result:
        """All of it. What fails is said in the result and left out."""
        measurements = {
            SPEED: self._speed,
            MEMBERS: self._members,
            PAUSES: self._failing,
            IDLE: self._idle,
            RESYNC: self._resync,
        }
        for part in self._plan.parts:
            try:
                measurements[part]()
            except (DriverFailed, RuntimeError, Unexpected) as reason:
                self._fail(part, reason)
        return self.result

    def _members(self) -> None:
        plan = scaling.Plan(max(self._plan.rounds // 2, 1), self._plan.latency_milliseconds)
        self.result.scaling = scaling.measure(plan, self._directory, self._program, self._say)

    def _failing(self) -> None:
        self.result.pauses = pauses.measure(self._plan.pauses, self._directory, self._program, self._say)

    def _idle(self) -> None:
        self.result.idle = idle.measure(self._plan.idle, self._directory, self._program, self._say)

    def _resync(self) -> None:
        rounds = max(self._plan.rounds // 2, 1)
        self.result.resync = resyncing.measure(self._plan.filled, rounds, self._directory, self._program, self._say)

    def _speed(self) -> None:
        everything = [one for one in OPERATIONS if not self._plan.only or one.name in self._plan.only]
        keyed = [one for one in everything if not one.full]
        full = [one for one in everything if one.full and self._plan.objects]
        with ExitStack() as stack:
            targets = self._targets("keys", 0, stack)
            if not self._plan.only:
                self._startups(targets)
            drivers = self._open(targets, stack)
            self._slices(drivers, keyed)
            if not self._plan.only:
                self._memories(targets, drivers)
                self._crowds(drivers)
        if full:
            with ExitStack() as stack:
                self._say(f"a store with {self._plan.objects} objects")
                self._slices(self._open(self._targets("full", self._plan.objects, stack), stack), full)

    def _fail(self, target: str, reason: Exception) -> None:
        text = f"{target}: {reason}"
        if text not in self.result.failures:
            self.result.failures.append(text)
            self._say(text)

    def _targets(self, kind: str, objects: int, stack: ExitStack) -> list[Target]:
        stores = Stores(self._directory / kind, self._program, objects)
        stack.callback(stores.close)
        made = []
        for name in self._plan.targets:
            try:
                made.append(stores.target(name))
            except (Unusable, DriverFailed, RuntimeError) as reason:
                self._fail(name, reason)
        return made

    def _open(self, targets: list[Target], stack: ExitStack) -> dict[str, Driver]:
        """A driver each, logged in, with its keys."""
        drivers = {}
        for target in targets:
            driver = stack.enter_context(target.driver(self._program))
            try:
                driver.ask("open")
                driver.ask("keys")
                drivers[target.name] = driver
            except DriverFailed as reason:
                self._fail(target.name, reason)
        return drivers

    def _startups(self, targets: list[Target]) -> None:
        self._say("start-up")
        for _ in range(self._plan.rounds):
            for target in targets:
                try:
                    with target.driver(self._program) as driver:
                        self.result.startup.setdefault(target.name, Startup()).add(driver.ask("open"))
                except DriverFailed as reason:
                    self._fail(target.name, reason)

    def _slices(self, drivers: dict[str, Driver], operations: list[Operation]) -> None:
        for operation in operations:
            # One search of 16 threads among 10,000 objects takes seconds, however short its slice.
            rounds = max(self._plan.rounds // 3, 1) if operation.full else self._plan.rounds
            for threads in self._plan.threads:
                self._say(f"{operation.name}, {threads} threads")
                broken: set[str] = set()
                for turn in range(rounds):
                    names = list(drivers)
                    for name in names[turn % len(names) :] + names[: turn % len(names)]:
                        one = None if name in broken else self._slice(name, drivers[name], operation.name, threads)
                        if one is None:
                            broken.add(name)
                        self.result.slices.setdefault((operation.name, threads, name), []).append(one)

    def _slice(self, name: str, driver: Driver, operation: str, threads: int) -> Slice | None:
        try:
            return Slice.parse(driver.ask(f"run {operation} {threads} {self._plan.milliseconds}"))
        except DriverFailed as reason:
            self._fail(name, reason)
            return None

    def _memories(self, targets: list[Target], drivers: dict[str, Driver]) -> None:
        """After the work of all threads: every place and session that it took is there."""
        for target in targets:
            driver = drivers.get(target.name)
            if driver is not None:
                serving = [process for server in target.servers for process in children(server)] + driver.helpers()
                self.result.memory[target.name] = Memory(driver.memory(), sum(map(pss, serving)))

    def _crowds(self, drivers: dict[str, Driver]) -> None:
        for count in CROWDS:
            self._say(f"{count} idle sessions")
            for name, driver in drivers.items():
                try:
                    (opening,) = driver.ask(f"sessions {count}")
                    typical = [
                        Slice.parse(driver.ask(f"run {operation} 1 {self._plan.milliseconds}")).typical
                        for operation in ("session-info", "random-16", "sign-p256")
                    ]
                    self.result.crowd.setdefault(name, []).append(Crowd(count, float(opening), *typical))
                except DriverFailed as reason:
                    self._fail(name, reason)
