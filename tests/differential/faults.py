"""What happens to members between two calls, as plain data that is drawn, shrunk and printed like the calls."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.chaos import LIMIT, Plan, behind_chaos
from tests.client import all_helpers, helpers, wait_for_end
from tests.integration.conftest import TestGroup
from tests.softhsm import SoftHSMToken


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
        with _not_written(self.group.tokens[fault.member]), suppress(ProcessLookupError):
            os.kill(pid, _SIGNALS[fault.way])
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


@contextmanager
def _not_written(token: SoftHSMToken) -> Iterator[None]:
    """While nobody is writing the token's file: SoftHSM empties it first, at every login, and a token whose helper is
    killed there (it may be on its way back) is lost for good, with its PIN. What a member holds otherwise may be torn:
    resync mends it."""
    limit = time.monotonic() + LIMIT
    with _file_of(token).open("r+b") as file:
        while True:
            fcntl.lockf(file, fcntl.LOCK_EX)  # as SoftHSM locks it itself, though it may write after it has unlocked
            if os.fstat(file.fileno()).st_size:
                break
            fcntl.lockf(file, fcntl.LOCK_UN)
            assert time.monotonic() < limit, f"the file of token {token.label} stays empty"
            time.sleep(0.001)  # what its writer does next, nobody is told
        yield


def _file_of(token: SoftHSMToken) -> Path:
    """The file of the token itself: its store names the directory by a UUID that ends with the serial."""
    (file,) = token.conf.parent.glob(f"tokens/*-{token.serial[:4]}-{token.serial[4:]}/token.object")
    return file
