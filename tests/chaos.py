"""Members behind pyha-chaos.so: plans that tests change while they are obeyed, and waiting for what is in the journal.

Nothing here sleeps: a plan is in force for the next call once it is in place, and the journal is watched by inotify.
"""

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyha.cli import chaos_plan
from pyha.cli.main import main
from tests.client import wait_for_end
from tests.integration.conftest import TestGroup
from tests.softhsm import MODULE

LIMIT = 30.0
"""Seconds after which something counts as hung."""

_CHANGES = 0x2 | 0x100  # IN_MODIFY, IN_CREATE


class Plan:
    """One plan, made without any fault."""

    def __init__(self, path: Path, module: str = MODULE) -> None:
        self.path = path
        assert main(["chaos", "set", str(path), f"module {module}"]) == 0

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be set to obey it."""
        return {"PYHA_CHAOS_PLAN": str(self.path)}

    def set(self, *entries: str) -> None:
        """These entries, in place of all others."""
        assert main(["chaos", "set", str(self.path), *entries]) == 0

    def add(self, *entries: str) -> None:
        """These entries after the others."""
        assert main(["chaos", "add", str(self.path), *entries]) == 0

    def release(self) -> None:
        """Lets go what hangs or is dead."""
        assert main(["chaos", "release", str(self.path)]) == 0

    def journal(self, what: str) -> list[str]:
        """The journal's lines of one sort, from the function or text on."""
        lines = [line.split(" ", 3) for line in chaos_plan.read_journal(self.path)]
        return [words[3] for words in lines if words[2] == what]

    def fired(self) -> list[str]:
        """The functions that met an entry, in their order."""
        return [line.split()[2].rstrip(":") for line in self.journal("fired")]

    def count(self, text: str) -> int:
        """How often the entries with this text have fired."""
        found = chaos_plan.fired(chaos_plan.read_journal(self.path))
        return sum(times for (_, of), times in found.items() if of == text)

    def wait(self, happened: Callable[[], bool]) -> None:
        """Until this is so, looking at each change of the journal."""
        limit = time.monotonic() + LIMIT
        with _watched(self.path.parent) as changed:
            while not happened():
                assert changed(limit - time.monotonic()), "nothing came"

    def killed(self, process: "subprocess.Popen[str]") -> None:
        """Kill a process and the helpers that obey the plan: one that hung would go on with its call when its line goes
        from the plan."""
        wanted = f"PYHA_CHAOS_PLAN={self.path}".encode()
        obeying = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    obeying.append(int(entry.name))
        process.kill()
        for pid in obeying:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for_end(obeying)

    def wait_for(self, function: str, times: int = 1) -> None:
        """Until calls of a function have met an entry so many times."""
        self.wait(lambda: self.fired().count(function) >= times)


@contextmanager
def _watched(directory: Path) -> Iterator[Callable[[float], bool]]:
    """A function that waits for a file of the directory to change, so many seconds at most."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    assert descriptor >= 0
    assert libc.inotify_add_watch(descriptor, os.fsencode(directory), _CHANGES) >= 0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)

    def changed(seconds: float) -> bool:
        return bool(poll.poll(max(seconds, 0) * 1000) and os.read(descriptor, 65536))

    try:
        yield changed
    finally:
        os.close(descriptor)


def behind_chaos(group: TestGroup, directory: Path) -> list[Plan]:
    """The members of a group, each behind a plan of its own. To be called before the application starts."""
    plans = []
    for index in range(len(group.tokens)):
        plan = Plan(directory / f"member-{index}")
        group.put_module(index, chaos_plan.chaos_module(), plan.environment)
        plans.append(plan)
    return plans
