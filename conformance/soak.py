"""`make soak`: minutes of mixed load over three members while they are killed, hung, unplugged and made to fail.

Rounds: everybody is in, and what processes hold is measured; then two of the three members at most meet random faults,
alone or together, while keys are made and deleted too; then changes rest until all are in again. A member that missed a
deletion stays out until its surplus is deleted by hand, as its operator would. Exit status 1 where an answer was wrong,
refused or lost, a member did not come back, an object is not where it should be, or something grew.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from conformance.soak_group import DEADLINE, MEMBERS, SoakGroup, measure
from conformance.soak_load import CHURN
from conformance.stage import Unexpected

_RETURN = 60.0
"""Seconds in which a member has to be in again."""
_START = 60.0
_END = 120.0
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

_CALM_ONLY = ("sessions lost", "login lost")
"""Not while keys are made: a member that forgets the login under a half-made key may refuse it (CKR_DEVICE_ERROR, all
taken back). That is safe, and an answer that the soak does not take."""

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
    "Python objects": (3000, 0.05),
    "sessions of a helper": (4, 0.25),
    "descriptors of a helper": (6, 0.0),
    "threads of a helper": (4, 0.25),
    "memory of a helper (MiB)": (12, 0.2),
}
"""By how much, and by which part, a median may be larger at the end: what a thread at work holds."""


class Soak:
    """One run. `failures`: sentences; none is what is hoped for."""

    def __init__(self, group: SoakGroup, threads: int, seed: str) -> None:
        self.failures: list[str] = []
        self.notes: list[str] = []
        self._group, self._random = group, Random(seed)
        self._told: dict[str, Any] = {}
        self._calm = threading.Event()
        self._samples: list[Sample] = []
        self._faults: Counter[str] = Counter()
        self._harmed: set[str] = set()
        self._read_so_far = 0
        self._lost: Counter[str] = Counter()
        self._mended = 0
        self._restored = 0
        self._printed = 0
        self._errors = (group.directory / "application.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "conformance.soak_load", group.module, group.label, str(threads), seed],
            cwd=Path(__file__).parents[1],
            env=group.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._start = time.monotonic()

    # -- the application ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "failed" in told:
                self.failures.append(told["failed"])
            if "calm" in told:
                self._calm.set()
            self._told.update(told)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Unexpected("the application is gone") from None

    def _rest(self) -> None:
        self._calm.clear()
        self._tell("changes off")
        self._until(self._calm.is_set, _RETURN + 10, "changes did not come to an end")

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
            if self._process.poll() is not None:
                raise Unexpected(f"the application ended with status {self._process.returncode}")
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
        count = self._told.get("count", {})
        seen = self._group.members(self._process.pid)
        states = " ".join(f"{name}:{seen[name].state.value if name in seen else '-'}" for name in MEMBERS)
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
            (self.notes if "deadline" in line else self.failures).append(text)
        self._read_so_far = len(lines)

    # -- rounds -------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Raises Unexpected."""
        self._until(lambda: self._told.get("count"), _START, "the application did not begin to work")
        self._all_in(MEMBERS[0])
        self._sample()
        while self._second() < seconds:
            spared = self._round(min(seconds - self._second(), self._random.uniform(2, 5)))
            self._all_in(spared)
            self._harmed.clear()
            self._pass(0.5)
            self._sample()
        self._end()

    def _round(self, seconds: float) -> str:
        """Faults for all members but the one that is given back."""
        spared = self._random.choice(MEMBERS)
        victims = [member for member in MEMBERS if member != spared]
        self._harmed.update(victims)
        crash = True
        changing = self._random.random() < 0.6
        kinds = {kind: weight for kind, weight in FAULTS.items() if not (changing and kind in _CALM_ONLY)}
        if changing:
            self._tell("changes on")
        end = self._second() + seconds
        while self._second() < end:
            together = victims if self._random.random() < 0.3 else [self._random.choice(victims)]
            (fault,) = self._random.choices(list(kinds), list(kinds.values()))
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
        return spared

    def _do(self, fault: str, member: str) -> None:
        if fault in ("killed", "stopped"):
            number = signal.SIGKILL if fault == "killed" else signal.SIGSTOP
            if not self._group.send(self._process.pid, member, number):
                return
        else:
            self._group.plan(member, "set", *_PLANS[fault])
        self._faults[fault] += 1

    def _all_in(self, good: str) -> None:
        """Until all members are in again, with what their operator has to do. Raises Unexpected."""
        end = time.monotonic() + _RETURN
        while out := self._group.out(self._process.pid):
            if time.monotonic() > end:
                raise Unexpected(f"not back after {_RETURN:g} s: " + "; ".join(self._named(out)))
            seen = self._group.members(self._process.pid)
            self._restored += self._group.restore()
            for member in out:
                if member in seen and "resync" in seen[member].reason:
                    differs = self._group.mend(member, good)
                    self._mended += 1
                    if differs:
                        self.notes.append(f"{member} needs a resync: {'; '.join(differs)}")
            self._pass(0.5)

    def _named(self, out: list[str]) -> list[str]:
        seen = self._group.members(self._process.pid)
        return [f"{name} ({seen[name].state.value}: {seen[name].reason})" if name in seen else name for name in out]

    def _sample(self) -> None:
        own, helpers = measure(self._process.pid), list(self._group.helpers().values())
        values = {
            "helpers": len(helpers),
            "descriptors": own.descriptors,
            "threads": own.threads,
            "memory (MiB)": own.memory,
            "Python objects": self._told.get("objects", 0),
            "sessions of a helper": max((each.sessions for each in helpers), default=0),
            "descriptors of a helper": max((each.descriptors for each in helpers), default=0),
            "threads of a helper": max((each.threads for each in helpers), default=0),
            "memory of a helper (MiB)": max((each.memory for each in helpers), default=0),
        }
        self._samples.append(Sample(self._second(), values))

    # -- the end ------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(_END)
        except subprocess.TimeoutExpired:
            raise Unexpected("the application did not end") from None
        self._reader.join()
        self._errors.seek(0)
        said = self._errors.read()
        if status != 0 or "done" not in self._told or said:
            raise Unexpected(f"the application ended with status {status}: {said}")
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
            if objects != found[MEMBERS[0]]:
                self.failures.append(f"{member} and {MEMBERS[0]} do not hold the same objects")

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
        count = self._told.get("done") or self._told.get("count", {})
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self._faults.items()))
        print(
            f"\n{sum(count.values())} operations: "
            + ", ".join(f"{number} {name}" for name, number in sorted(count.items()))
        )
        print(f"Faults: {faults or 'none'}. Members lost {self._lost.total()} times.")
        print(f"By hand: {self._mended} looks for surplus objects, {self._restored} tokens restored.")
        print(f"The longest operation took {self._told.get('longest', 0):.2f} s (deadline {DEADLINE:g} s a member).")
        for note in self.notes:
            print(f"note: {note}")
        for failure in self.failures:
            print(f"FAILED: {failure}")
        print("All is well." if not self.failures else f"{len(self.failures)} failures.")

    def kill(self) -> None:
        """Whatever happened, nothing is left."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        sys.stderr.write(self._errors.read())
        self._errors.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long faults go on (120)")
    parser.add_argument("--threads", type=int, default=8, help="of the application (8)")
    parser.add_argument(
        "--seed", default="", help="of a run before, for the same choices; the threads' order is the machine's"
    )
    parser.add_argument("--keep", type=Path, help="an empty directory that stays, with tokens, plans and log")
    return parser.parse_args()


def soak(directory: Path, given: argparse.Namespace) -> int:
    """Exit status."""
    seed = given.seed or str(SystemRandom().randrange(10**6))
    print(f"seed {seed}, {given.threads} threads, {given.seconds:g} s", flush=True)
    run = Soak(SoakGroup(directory), given.threads, seed)
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
