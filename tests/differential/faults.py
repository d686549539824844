"""What happens to members between two calls, as plain data that is drawn, shrunk and printed like the calls."""

import signal
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.chaos import Plan, behind_chaos
from tests.client import all_helpers, helpers, wait_for_end
from tests.integration.conftest import TestGroup


class Way(StrEnum):
    """How a member is lost."""

    KILLED = "killed"  # its helper, now
    STOPPED = "stopped"  # its helper is, until its deadline has passed
    REMOVED = "removed"  # it answers CKR_DEVICE_REMOVED to its next call of a function
    DIES = "dies"  # its helper crashes in its next call of a function
    HANGS = "hangs"  # its next call of a function does not return


_PLANNED = {Way.REMOVED: "answer CKR_DEVICE_REMOVED", Way.DIES: "crash", Way.HANGS: "hang"}
_SIGNALS = {Way.KILLED: signal.SIGKILL, Way.STOPPED: signal.SIGSTOP}


@dataclass(frozen=True)
class Fault:
    """One. `function`: of those that meet a call."""

    member: int
    way: Way
    function: str = ""


@dataclass
class Trouble:
    """The members of a group, each behind a plan of faults."""

    group: TestGroup
    directory: Path
    plans: list[Plan] = field(init=False)

    def __post_init__(self) -> None:
        self.plans = behind_chaos(self.group, self.directory)
        self._read = 0

    def begin(self) -> None:
        """No plan, and no member out so far."""
        for plan in self.plans:
            plan.set()
        self._read = len(self.group.logged())

    def strike(self, fault: Fault) -> str:
        """Make it happen; what was done."""
        if fault.way in _PLANNED:
            self.plans[fault.member].add(f"{fault.function} once -> {_PLANNED[fault.way]}")
            return fault.way
        pid = helpers(self.group.label).get(self.group.tokens[fault.member].label)
        if pid is None:
            return "was out"
        # It may be on its way back. What a member holds may be torn: resync mends it.
        with suppress(ProcessLookupError):
            self.group.tokens[fault.member].strike(pid, _SIGNALS[fault.way])
        return fault.way

    def end(self) -> None:
        """Once the slot is finalised: a helper that was let go of may be inside of its module for a moment yet, and
        must not meet the tokens of the next sequence."""
        wait_for_end(all_helpers(self.group.label))

    def said(self) -> str:
        """What was logged since `begin`."""
        return self.group.logged()[self._read :]

    def present(self) -> list[int]:
        """The members that are in, by what was logged since `begin`."""
        lines = self.said().splitlines()
        names = [token.label for token in self.group.tokens]
        out = set()
        for line in lines:
            name = line.partition("member ")[2].partition(" ")[0]
            if name in names and " lost: " in line:
                out.add(names.index(name))
            elif name in names and line.endswith(" returned"):
                out.discard(names.index(name))
        return [index for index in range(len(names)) if index not in out]
