"""Members that misbehave on request: one fault a member, planned by the name of what is wanted (tests/chaos.py)."""

from enum import StrEnum
from pathlib import Path

from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup


class Fault(StrEnum):
    """What meets a call: conditions and action of a plan's entry (docs/chaos.md). {} stands for a CK_RV."""

    ANSWER = "once -> answer {:#x}"
    AFTER = "once -> answer-after {:#x}"
    ALWAYS = "-> answer {:#x}"
    CRASH = "once -> crash"
    HANG = "once -> hang"
    SESSIONS = "once -> lose-sessions"
    LOGOUT = "once -> lose-login"
    POISON = 'data="POISON" -> crash'
    SUBSTITUTE = "-> substitute"


class Faulty:
    """The members of a group, each behind a module that obeys a plan. Made before the application starts."""

    def __init__(self, group: TestGroup, directory: Path) -> None:
        self._plans = behind_chaos(group, directory)
        self._planned: dict[int, tuple[str, int]] = {}

    def plan(self, index: int, function: str, fault: Fault, value: int = 0, skip: int = 0) -> None:
        """The member's next call of this function meets the fault, after `skip` calls that do not; instead of what was
        planned before."""
        nth = f"nth={skip + 1} " if skip else ""
        entry = f"{function} {nth}{fault.format(value)}"
        plan = self._plans[index]
        self._planned[index] = entry, plan.count(entry)
        plan.set(entry)

    def everywhere(self, function: str, fault: Fault, value: int = 0) -> None:
        """`plan` for every member."""
        for index in range(len(self._plans)):
            self.plan(index, function, fault, value)

    def waiting(self) -> list[int]:
        """Members whose plan has not fired."""
        return [at for at, (entry, before) in self._planned.items() if self._plans[at].count(entry) == before]

    def clear(self) -> None:
        """No more faults."""
        for plan in self._plans:
            plan.set()
        self._planned.clear()
