"""Members that misbehave on request: tests/native/faulty.c around SoftHSM, one plan file a member."""

from enum import IntEnum
from pathlib import Path

from pyha.cryptoki.functions import BY_NAME
from tests.integration.conftest import TestGroup
from tests.native_tools import NATIVE, compile_c
from tests.softhsm import MODULE

Fault = IntEnum("Fault", "ANSWER AFTER ALWAYS CRASH HANG SESSIONS LOGOUT POISON SUBSTITUTE", start=0)
"""As in faulty.c, where each is said."""


class Faulty:
    """The members of a group, each behind a module that obeys a plan. Made before the application starts."""

    def __init__(self, group: TestGroup, directory: Path) -> None:
        output = directory / "faulty.so"
        if not output.exists():
            compile_c(NATIVE / "faulty.c", output, "-shared", "-fPIC", "-I/usr/include/p11-kit-1", "-ldl")
        self._plans = [directory / f"plan-{index}" for index in range(len(group.tokens))]
        for index, plan in enumerate(self._plans):
            group.put_module(index, str(output), {"FAULTY_MODULE": MODULE, "FAULTY_PLAN": str(plan)})

    def plan(self, index: int, function: str, fault: Fault, value: int = 0, skip: int = 0) -> None:
        """The member's next call of this function meets the fault, after `skip` calls that do not."""
        whole = self._plans[index].with_suffix(".new")
        whole.write_text(f"{BY_NAME[function].index} {fault.value} {value} {skip}\n")
        whole.rename(self._plans[index])

    def everywhere(self, function: str, fault: Fault, value: int = 0) -> None:
        """`plan` for every member."""
        for index in range(len(self._plans)):
            self.plan(index, function, fault, value)

    def waiting(self) -> list[int]:
        """Members whose plan has not fired."""
        return [index for index, plan in enumerate(self._plans) if plan.exists()]

    def clear(self) -> None:
        """No more faults."""
        for plan in self._plans:
            plan.unlink(missing_ok=True)
