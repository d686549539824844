"""Calling a module through a link by hand: words and raw memory, no codec."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

from pyha.abi.link import TURN, Arena, Link
from pyha.abi.native import ffi
from pyha.cryptoki.functions import BY_NAME
from tests.native_tools import NATIVE, compile_c

LINKS = ("process", "none")
LIMIT = 30.0
"""Seconds after which something counts as hung."""

Hostile = IntEnum(
    "Hostile",
    "ANSWER MIX SUM FILL PID INSPECT DESCRIPTORS GETENV HANG GATE CRASH TRUNCATE SCRIBBLE CHILD DEAFEN LAST",
    start=0,
)
"""Commands of tests/native/hostile.h."""

Death = IntEnum("Death", "SEGV ABORT EXIT STACK TRAP OTHER_THREAD KILL", start=0)
"""Ways to die, likewise."""

COMMAND = BY_NAME["C_GetInfo"].index
"""Any function of the hostile module will do."""


def soon() -> float:
    """A deadline that is only missed by what hangs."""
    return time.monotonic() + LIMIT


@contextmanager
def leased(link: Link, capacity: int = 4096) -> Iterator[Arena]:
    """An arena, wiped altogether afterwards."""
    arena = link.arena(capacity, soon())
    try:
        yield arena
    finally:
        link.release(arena, min(capacity, arena.capacity))


def invoke(link: Link, arena: Arena, index: int, *words: int, deadline: float | None = None) -> int:
    """One call with these words."""
    for position, word in enumerate(words):
        arena.words[position] = word
    return link.invoke(arena, index, soon() if deadline is None else deadline)


def lay(arena: Arena, turns: Sequence[Sequence[int]]) -> None:
    """The turns of a series, each with these words first."""
    for number, words in enumerate(turns):
        ffi.cast("uint64_t *", arena.here + number * TURN)[0 : len(words)] = words


def results(arena: Arena, count: int) -> list[int]:
    """What the turns of a series have answered."""
    return [ffi.cast("uint64_t *", arena.here + number * TURN)[TURN // 8 - 1] for number in range(count)]


def command(link: Link, *words: int, deadline: float | None = None) -> int:
    """One command to the hostile module."""
    with leased(link) as arena:
        return invoke(link, arena, COMMAND, *words, deadline=deadline)


def start(work: Callable[..., Any], *arguments: Any, **named: Any) -> "Future[Any]":
    """Runs `work` in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def hostile(directory: Path, variant: int = 0) -> str:
    """The hostile module, compiled; its path."""
    output = directory / f"hostile-{variant}.so"
    if not output.exists():
        compile_c(
            NATIVE / "hostile.c", output, "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", f"-DVARIANT={variant}"
        )
    return str(output)


class Process:
    """A process that is not ours to wait for, held by a descriptor so that its number cannot come to mean another."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def ended(self, limit: float = LIMIT) -> bool:
        """Waits for its end, `limit` seconds at most."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(limit * 1000))

    def stop(self) -> None:
        """SIGSTOP, and waits until every thread has stopped (no event tells who is not its parent)."""
        os.kill(self.pid, signal.SIGSTOP)
        limit = soon()
        while not all(text.rpartition(")")[2].split()[0] == "T" for text in self._threads()):
            assert time.monotonic() < limit
            time.sleep(0.001)

    def _threads(self) -> list[str]:
        return [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]

    def close(self) -> None:
        """Lets go of it."""
        os.close(self._descriptor)


class SoftHSMCalls:
    """The few calls of a SoftHSM token that the contract needs, over any link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def call(self, arena: Arena, name: str, *words: int) -> int:
        """One function by its name."""
        return invoke(self.link, arena, BY_NAME[name].index, *words)

    def open(self) -> int:
        """C_Initialize, and a session on the first token; its handle."""
        with leased(self.link) as arena:
            arguments = ffi.cast("CK_C_INITIALIZE_ARGS *", arena.here)
            arguments.flags = 2  # CKF_OS_LOCKING_OK
            assert self.call(arena, "C_Initialize", arena.there) == 0
        return self.session()

    def session(self) -> int:
        """C_OpenSession on the first token; the session's handle."""
        with leased(self.link) as arena:
            count = ffi.cast("CK_ULONG *", arena.here)
            count[0] = 16
            assert self.call(arena, "C_GetSlotList", 1, arena.there + 8, arena.there) == 0
            assert self.call(arena, "C_OpenSession", count[1], 4, 0, 0, arena.there) == 0
            return int(count[0])

    def finish(self) -> None:
        """C_Finalize."""
        with leased(self.link) as arena:
            assert self.call(arena, "C_Finalize", 0) == 0

    def random(self, session: int, size: int) -> bytes:
        """C_GenerateRandom."""
        with leased(self.link, size) as arena:
            assert self.call(arena, "C_GenerateRandom", session, arena.there, size) == 0
            return bytes(ffi.buffer(arena.here, size))

    def sha256(self, session: int, data: bytes) -> bytes:
        """C_DigestInit and C_Digest."""
        with leased(self.link, 64 + len(data)) as arena:
            mechanism = ffi.cast("CK_MECHANISM *", arena.here)
            mechanism.mechanism, mechanism.pParameter, mechanism.ulParameterLen = 0x250, ffi.NULL, 0
            assert self.call(arena, "C_DigestInit", session, arena.there) == 0
            ffi.memmove(arena.here + 64, data, len(data))
            length = ffi.cast("CK_ULONG *", arena.here)
            length[0] = 32
            words = (session, arena.there + 64, len(data), arena.there + 8, arena.there)
            assert self.call(arena, "C_Digest", *words) == 0
            assert length[0] == 32
            return bytes(ffi.buffer(arena.here + 8, 32))
