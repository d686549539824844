"""`make soak`: minutes of mixed load over four members, one of them standby, while they are killed, hung, unplugged and
made to fail under several applications.

Rounds: everybody is in, and what processes hold is measured; then all members but one meet random faults, alone or
together, while keys are made and deleted too; then changes rest until all are in again, each by itself. In some rounds
all members are gone at once. Exit status 1 where an answer was wrong,
refused or lost, a member did not come back, an object is not where it should be, or something grew.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from conformance.soak_application import SoakApplication
from conformance.soak_group import DEADLINE, MEMBERS, SoakGroup, measure
from conformance.soak_load import CHURN
from conformance.stage import Unexpected

_RETURN = 120.0
"""Seconds in which a member has to be in again."""
_START = 60.0
_END = 120.0
_OUTAGE = 0.25
"""How often a round is the loss of all members."""
_FEWEST = 2
"""Measurements in a third, without which growth is not judged."""

FAULTS = {
    "killed": 6,
    "stopped": 2,
    "dead": 3,
    "crash": 2,
    "hang": 2,
    "sessions lost": 3,
    "login lost": 3,
    "slow": 3,
}
"""What happens to a member, and how often beside the others."""

_PLANS = {
    "dead": ("any -> dead CKR_DEVICE_REMOVED",),
    "crash": ("C_Sign once -> crash",),
    "hang": ("C_Sign once -> hang",),
    "sessions lost": ("C_SignInit once -> lose-sessions",),
    "login lost": ("C_SignInit once -> lose-login",),
    "slow": ("any -> delay 20",),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What was held in a quiet moment, all members in; of helpers each largest number by itself."""

    second: float
    values: dict[str, float]


_MAY_GROW = {
    "helpers": (0, 0.0),
    "descriptors": (6, 0.0),
    "threads": (2, 0.0),
    "memory (MiB)": (16, 0.2),
    "Python objects": (8000, 0.05),
    "sessions of a helper": (4, 0.25),
    "descriptors of a helper": (6, 0.0),
    "threads of a helper": (4, 0.25),
    "memory of a helper (MiB)": (12, 0.2),
}
"""By how much, and by which part, a median may be larger at the end: what a thread at work holds."""


class Soak:
    """One run. `failures`: sentences; none is what is hoped for."""

    def __init__(self, group: SoakGroup, applications: int, threads: int, seed: str, spared: list[str]) -> None:
        """`spared`: the FAULTS that do not happen."""
        self.failures: list[str] = []
        self.notes: list[str] = []
        self._group, self._random = group, Random(seed)
        self._may_happen = {fault: weight for fault, weight in FAULTS.items() if fault not in spared}
        self._samples: list[Sample] = []
        self._faults: Counter[str] = Counter()
        self._harmed: set[str] = set()
        self._read_so_far = 0
        self._lost: Counter[str] = Counter()
        self._restored = 0
        self._outages = 0
        self._printed = 0
        self._applications = [
            SoakApplication(group, name, threads, seed, self.failures) for name in "abcdefgh"[:applications]
        ]
        self._start = time.monotonic()

    # -- the applications ---------------------------------------------------------------------------------------

    def _tell(self, line: str) -> None:
        for application in self._applications:
            application.tell(line)

    def _rest(self) -> None:
        for application in self._applications:
            application.calm.clear()
        self._tell("changes off")
        calm = [application.calm for application in self._applications]
        self._until(lambda: all(each.is_set() for each in calm), _RETURN + 10, "changes did not come to an end")

    def _count(self) -> Counter[str]:
        return sum((Counter(application.count) for application in self._applications), Counter())

    # -- time ---------------------------------------------------------------------------------------------------

    def _second(self) -> float:
        return time.monotonic() - self._start

    def _pass(self, seconds: float = 0.1) -> None:
        """Let time go by, and say a line a second. Raises Unexpected once something has failed."""
        end = time.monotonic() + seconds
        while True:
            self._read_log()
            if self._second() >= self._printed + 1:
                self._printed = int(self._second())
                self._line()
            for application in self._applications:
                application.expect_running()
            if self.failures:
                raise Unexpected("the run ends at the first failure")
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    def _until(self, holds: Any, limit: float, otherwise: str) -> None:
        end = time.monotonic() + limit
        while not holds():
            if time.monotonic() > end:
                raise Unexpected(otherwise)
            self._pass()

    def _line(self) -> None:
        count = self._count()
        views = [self._group.members(application.pid) for application in self._applications]
        states = " ".join(
            f"{name}:{'/'.join(seen[name].state.value if name in seen else '-' for seen in views)}" for name in MEMBERS
        )
        signatures = count.get("rsa", 0) + count.get("ec", 0)
        print(
            f"{self._printed:4} s  {sum(count.values())} done, {signatures} signatures verified, "
            f"{count.get('changes', 0)} keys made and deleted; {states}; faults {self._faults.total()}",
            flush=True,
        )

    def _read_log(self) -> None:
        lines = self._group.log.read_text().splitlines() if self._group.log.exists() else []
        for line in lines[self._read_so_far :]:
            name = line.partition("member ")[2].partition(" lost: ")[0]
            if " lost: " not in line:
                continue
            self._lost[name] += 1
            if name in self._harmed:
                continue
            text = f"{name} was lost and nothing was done to it: {line.partition(' lost: ')[2]}"
            # On a machine that has too much to do a call takes longer than the deadline by itself.
            late = "deadline" in line or "in time" in line
            (self.notes if late else self.failures).append(text)
        self._read_so_far = len(lines)

    # -- rounds -------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Raises Unexpected."""
        self._until(
            lambda: all(each.count for each in self._applications), _START, "an application did not begin to work"
        )
        self._all_in()
        self._sample()
        end = self._second() + seconds
        while self._second() < end:
            if self._random.random() < _OUTAGE:
                self._outage()
            else:
                self._round(min(end - self._second(), self._random.uniform(2, 5)))
                self._all_in()
            self._harmed.clear()
            self._pass(0.5)
            self._sample()
        self._end()

    def _outage(self) -> None:
        """Every member is gone for all applications, then all are back: the same sessions, login and handles work."""
        self._harmed.update(MEMBERS)
        self._tell("outage on")
        for member in MEMBERS:
            self._group.plan(member, "set", "any -> dead CKR_DEVICE_REMOVED")
        before = self._count()["found no member"]
        self._until(lambda: self._count()["found no member"] > before, _RETURN, "no call noticed that nobody is there")
        for member in MEMBERS:
            self._group.plan(member, "clear")
        self._all_in()
        self._tell("outage off")
        self._outages += 1

    def _round(self, seconds: float) -> None:
        """Faults for all members but one."""
        spared = self._random.choice(MEMBERS)
        victims = [member for member in MEMBERS if member != spared]
        self._harmed.update(victims)
        crash = True
        changing = self._random.random() < 0.6
        if changing:
            self._tell("changes on")
        end = self._second() + seconds
        while self._second() < end:
            together = victims if self._random.random() < 0.3 else [self._random.choice(victims)]
            (fault,) = self._random.choices(list(self._may_happen), list(self._may_happen.values()))
            if fault == "crash":
                # One member only: a call that two members died of gets its error, which is right.
                together = victims[:1] if crash else []
                crash = False
            for member in together:
                self._do(fault, member)
            self._pass(self._random.uniform(0.2, 1.5))
        self._rest()
        for member in victims:
            self._group.plan(member, "clear")

    def _do(self, fault: str, member: str) -> None:
        if fault in ("killed", "stopped"):
            number = signal.SIGKILL if fault == "killed" else signal.SIGSTOP
            if not self._group.send(self._random.choice(self._applications).pid, member, number):
                return
        else:
            self._group.plan(member, "set", *_PLANS[fault])
        self._faults[fault] += 1

    def _all_in(self) -> None:
        """Until all members are in again for every application, by themselves. Raises Unexpected."""
        end = time.monotonic() + _RETURN
        while out := [text for application in self._applications for text in self._out(application)]:
            if time.monotonic() > end:
                raise Unexpected(f"not back after {_RETURN:g} s: " + "; ".join(out))
            self._restored += self._group.restore()
            self._pass(0.2)

    def _out(self, application: SoakApplication) -> list[str]:
        seen = self._group.members(application.pid)
        names = self._group.out(application.pid)
        return [f"{name} ({seen[name].state.value}: {seen[name].reason})" if name in seen else name for name in names]

    def _sample(self) -> None:
        own = [measure(application.pid) for application in self._applications]
        helpers = list(self._group.helpers().values())
        values = {
            "helpers": len(helpers),
            "descriptors": max(each.descriptors for each in own),
            "threads": max(each.threads for each in own),
            "memory (MiB)": max(each.memory for each in own),
            "Python objects": max(each.told.get("objects", 0) for each in self._applications),
            "sessions of a helper": max((each.sessions for each in helpers), default=0),
            "descriptors of a helper": max((each.descriptors for each in helpers), default=0),
            "threads of a helper": max((each.threads for each in helpers), default=0),
            "memory of a helper (MiB)": max((each.memory for each in helpers), default=0),
        }
        self._samples.append(Sample(self._second(), values))

    # -- the end ------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        for application in self._applications:
            application.end(_END)
        left = self._group.helpers()
        if left:
            self.failures.append(f"{len(left)} helpers outlived the application")
        self._compare()
        self._grown()

    def _compare(self) -> None:
        found = self._group.inventories()
        for member, objects in found.items():
            left = [str(what[1]) for what in objects if (what[1] or b"").startswith(CHURN.encode())]
            if left:
                self.failures.append(f"{member} still has what was deleted: {', '.join(left)}")
            twice = [str(what[1]) for what, number in objects.items() if number > 1]
            if twice:
                self.failures.append(f"{member} has objects twice: {', '.join(twice)}")
            first = found[MEMBERS[0]]
            if objects != first:
                differ = sorted(str(what[1]) for what in (objects - first) + (first - objects))
                self.failures.append(f"{member} and {MEMBERS[0]} do not hold the same objects: {', '.join(differ[:9])}")

    def _grown(self) -> None:
        last = self._samples[-1].second
        first = [each.values for each in self._samples if each.second <= last / 3]
        late = [each.values for each in self._samples if each.second >= last * 2 / 3]
        if min(len(first), len(late)) < _FEWEST:
            self.notes.append("too short a run to say whether anything grows")
            return
        for name, (number, part) in _MAY_GROW.items():
            before = statistics.median(each[name] for each in first)
            after = statistics.median(each[name] for each in late)
            print(f"  {name}: {before:.0f} in the first third, {after:.0f} in the last")
            if after > before * (1 + part) + number:
                self.failures.append(f"{name} grew from {before:.0f} to {after:.0f}")

    def summary(self) -> None:
        """What came of it."""
        count = self._count()
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self._faults.items()))
        print(
            f"\n{sum(count.values())} operations: "
            + ", ".join(f"{number} {name}" for name, number in sorted(count.items()))
        )
        print(f"Faults: {faults or 'none'}. Members lost {self._lost.total()} times.")
        print(f"All members gone and back {self._outages} times. By hand: {self._restored} tokens restored.")
        longest = max(each.told.get("longest", 0) for each in self._applications)
        print(f"The longest operation took {longest:.2f} s (deadline {self._group.deadline:g} s a member).")
        for note in self.notes:
            print(f"note: {note}")
        for failure in self.failures:
            print(f"FAILED: {failure}")
        print("All is well." if not self.failures else f"{len(self.failures)} failures.")

    def kill(self) -> None:
        """Whatever happened, nothing is left."""
        for application in self._applications:
            application.kill()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long faults go on (120)")
    parser.add_argument("--applications", type=int, default=2, choices=range(1, 9), help="processes (2)")
    parser.add_argument("--threads", type=int, default=4, help="of each application (4)")
    parser.add_argument(
        "--seed", default="", help="of a run before, for the same choices; the threads' order is the machine's"
    )
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE, help=f"seconds, of a call on a member ({DEADLINE:g})"
    )
    parser.add_argument("--without", action="append", default=[], choices=FAULTS, help="a fault that does not happen")
    parser.add_argument("--keep", type=Path, help="an empty directory that stays, with tokens, plans and log")
    return parser.parse_args()


def soak(directory: Path, given: argparse.Namespace) -> int:
    """Exit status."""
    seed = given.seed or str(SystemRandom().randrange(10**6))
    print(
        f"seed {seed}, {given.applications} applications, {given.threads} threads each, {given.seconds:g} s", flush=True
    )
    run = Soak(SoakGroup(directory, given.deadline), given.applications, given.threads, seed, given.without)
    try:
        run.run(given.seconds)
    except Unexpected as unexpected:
        run.failures.append(str(unexpected))
    finally:
        run.kill()
    run.summary()
    if run.failures and not given.keep:
        print("The end of the log:\n" + "\n".join((directory / "pyha.log").read_text().splitlines()[-40:]))
    return 1 if run.failures else 0


def main() -> int:
    """Exit status."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    given = _arguments()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
        return soak(given.keep.resolve(), given)
    with tempfile.TemporaryDirectory(prefix="pyha-soak-") as name:
        return soak(Path(name), given)


if __name__ == "__main__":
    sys.exit(main())
