"""Members as network HSMs: a fixed latency, one call at a time. How the rate grows with their number.

All groups are open at once, each in a process of its own; a round gives each one slice, as in `measure`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from conformance.bench.driver import Driver, DriverFailed
from conformance.bench.findings import Scaling
from conformance.bench.groups import Rehearsal, member_names
from conformance.bench.slices import Slice

SIZES = (1, 2, 4, 8)
OPERATIONS = ("random-16", "sign-p256")
LATENCY = 2
"""Milliseconds of a call."""

THREADS = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """`milliseconds`: of one slice."""

    rounds: int
    milliseconds: int
    sizes: Sequence[int] = SIZES


def measure(plan: Plan, directory: Path, program: Path, say: Callable[[str], None]) -> Scaling:
    """Raises DriverFailed, RuntimeError."""
    found = Scaling(LATENCY, THREADS)
    with ExitStack() as stack:
        drivers = {size: _open(size, directory / f"members-{size}", program, say, stack) for size in plan.sizes}
        for operation in OPERATIONS:
            for turn in range(plan.rounds):
                say(f"{operation}, members with {LATENCY} ms, round {turn + 1}")
                for size, driver in drivers.items():
                    taken = Slice.parse(driver.ask(f"run {operation} {THREADS} {plan.milliseconds}"))
                    found.slices.setdefault((operation, size), []).append(taken)
    return found


def _open(size: int, directory: Path, program: Path, say: Callable[[str], None], stack: ExitStack) -> Driver:
    """A process with its keys; only then its members become slow."""
    say(f"{size} members with {LATENCY} ms")
    group = Rehearsal(directory, size)
    driver = stack.enter_context(group.target("slow").driver(program))
    driver.ask("open")
    driver.ask("keys")
    if len(driver.helpers()) != size:
        raise DriverFailed(f"{len(driver.helpers())} of {size} members came")
    for name in member_names(size):
        group.plan(name, "add", f"any -> one-at-a-time {LATENCY}")
    return driver
