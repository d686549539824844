"""A process that holds one module and carries out described calls: what an argument looks like in C is read from the
table of functions, by its kind, so that every function can be called with right and with wrong arguments.

Described arguments, by kind: numbers as they are; bytes, None for NULL with length 0, `Null(n)` for NULL with a length;
a mechanism as (type, parameter); a template as (attribute, value) pairs; a query as (attribute, room) pairs, room None
to ask for the length; room for output in bytes, None to ask for the length, MISSING for no pointer to it at all; for a
returned number True, or None for a NULL pointer. Parameters, values and rooms may be `Null(n)` too.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, cast

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.kinds import KINDS, Flow, Kind
from tests.application import Mechanism, _mechanism, _template
from tests.client import Client

Word = ctypes.c_ulong

CRASHED = -1
"""In place of a CK_RV: the process with the module has died."""

HUNG = -2
"""In place of a CK_RV: the call has not returned, and the process was ended."""

_FORK, _RETURN = "fork", "return"
"""In place of a function's name."""

_LIMIT = 100.0
"""Seconds for a call, far above every deadline of a member."""

MISSING = "missing"
"""A NULL pointer where the length of the output belongs."""

_GUARD = b"\xa5" * 16
_FILLED = frozenset((ck.CKR_OK, ck.CKR_ATTRIBUTE_SENSITIVE, ck.CKR_ATTRIBUTE_TYPE_INVALID, ck.CKR_BUFFER_TOO_SMALL))
_ROOM_OF_INFO = 512


@dataclass(frozen=True)
class Null:
    """A NULL pointer, with a length that says there is something."""

    length: int


@dataclass(frozen=True)
class Answer:
    """What a call answered. `results`: one for each argument that returns something, None for the others."""

    rv: int
    results: tuple[Any, ...] = ()


class Overrun(Exception):
    """A module wrote behind the end of the caller's memory."""


class _Room:
    """Memory of the caller with a guard behind it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.memory = ctypes.create_string_buffer(bytes(size) + _GUARD, size + len(_GUARD))

    def content(self, length: int) -> bytes:
        """The first bytes. Raises Overrun."""
        self.check()
        return self.memory.raw[: min(length, self._size)]

    def check(self) -> None:
        """Raises Overrun."""
        if self.memory.raw[self._size :] != _GUARD:
            raise Overrun


class _Argument:
    """One argument: its C words, and what came back."""

    def __init__(self, kind: Kind, value: Any) -> None:
        self._kind, self._value = kind, value
        self.rooms: list[_Room] = []
        self._alive: list[Any] = []
        self.words: list[Any] = self._built()

    def _built(self) -> list[Any]:
        kind, value = self._kind, self._value
        if KINDS[kind].flow is Flow.IN:
            return self._input()
        if kind is Kind.MECHANISM:
            return [self._mechanism(value)]
        if kind is Kind.QUERY:
            return self._query()
        if kind is Kind.FILL:
            return [None if value is None else self._room(value), value or 0]
        if kind in (Kind.OUT_BYTES, Kind.OUT_SLOTS, Kind.OUT_MECHANISMS):
            self.count = Word(value if isinstance(value, int) else 0)
            unit = 1 if kind is Kind.OUT_BYTES else ctypes.sizeof(Word)
            room = self._room(value * unit) if isinstance(value, int) else None
            return [room, None if value == MISSING else self.count]
        if kind is Kind.OUT_OBJECTS:
            self.count = Word(0)
            self.handles = (Word * max(value or 1, 1))()
            return [None, 1, self.count] if value is None else [self.handles, value, self.count]
        self.count = Word(0)
        if kind in (Kind.OUT_OBJECT, Kind.OUT_SESSION, Kind.OUT_SIZE, Kind.OUT_SLOT):
            return [None if value is None else self.count]
        return [None if value is None else self._room(_ROOM_OF_INFO)]

    def _input(self) -> list[Any]:
        kind, value = self._kind, self._value
        if kind in (Kind.NOTIFY,):
            return [None, None]
        if len(KINDS[kind].c) == 1:
            return [value if value is None or isinstance(value, int) else self._keep(value)]
        if value is None:
            return [None, 0]
        if isinstance(value, Null):
            return [None, value.length]
        if kind is Kind.TEMPLATE:
            return self._template(value)
        return [self._keep(value), len(value)]

    def _mechanism(self, value: Mechanism | None) -> Any:
        if value is None:
            return None
        kind, parameter = value
        described = kind if parameter is None or isinstance(parameter, Null) else value
        how, alive = _mechanism(described)
        if isinstance(parameter, Null):
            how.length = parameter.length
        self._alive += [how, alive]
        return how

    def _template(self, value: Any) -> list[Any]:
        pairs = dict(value)
        attributes, alive = _template({each: b"" if isinstance(how, Null) else how for each, how in pairs.items()})
        for attribute, how in zip(attributes, pairs.values(), strict=True):
            if isinstance(how, Null):
                attribute.value, attribute.length = None, how.length
        self._alive += [attributes, alive]
        return [attributes, len(attributes)]

    def _query(self) -> list[Any]:
        if self._value is None:
            return [None, 1]
        self.entries = (Word * (3 * max(len(self._value), 1)))()
        for at, (attribute, room) in enumerate(self._value):
            if isinstance(room, Null):
                self.entries[3 * at : 3 * at + 3] = [attribute, 0, room.length]
                continue
            address = 0 if room is None else ctypes.addressof(self._room(room))
            self.entries[3 * at : 3 * at + 3] = [attribute, address, room or 0]
        return [self.entries, len(self._value)]

    def _keep(self, value: bytes) -> Any:
        self._alive.append(ctypes.create_string_buffer(value, max(len(value), 1)))
        return self._alive[-1]

    def _room(self, size: int) -> Any:
        self.rooms.append(_Room(size))
        return self.rooms[-1].memory

    def result(self, rv: int) -> Any:
        """What the caller finds. Raises Overrun."""
        for room in self.rooms:
            room.check()
        kind, value = self._kind, self._value
        if kind is Kind.QUERY and value is not None and rv in _FILLED:
            return self._queried()
        if kind is Kind.OUT_BYTES and rv in (ck.CKR_OK, ck.CKR_BUFFER_TOO_SMALL):
            given = rv == ck.CKR_OK and isinstance(value, int)
            return self.count.value, self.rooms[0].content(self.count.value) if given else None
        if rv != ck.CKR_OK or value is None:
            return None
        if kind is Kind.FILL:
            return self.rooms[0].content(value)
        if kind is Kind.OUT_OBJECTS:
            return tuple(self.handles[: self.count.value])
        if kind in (Kind.OUT_OBJECT, Kind.OUT_SESSION, Kind.OUT_SIZE):
            return self.count.value
        if kind in (Kind.OUT_SLOTS, Kind.OUT_MECHANISMS):
            return struct.unpack(f"<{self.count.value}Q", self.rooms[0].content(8 * self.count.value))
        return self.rooms[0].content(_ROOM_OF_INFO) if kind.name.endswith("_INFO") else None

    def _queried(self) -> tuple[Any, ...]:
        found, rooms = [], iter(self.rooms)
        for at, (_, room) in enumerate(self._value):
            length = self.entries[3 * at + 2]
            memory = next(rooms) if isinstance(room, int) else None
            known = memory is not None and length != ck.CK_UNAVAILABLE_INFORMATION
            found.append((length, memory.content(length) if memory is not None and known else None))
        return tuple(found)


def perform(client: Client, name: str, values: tuple[Any, ...]) -> Answer:
    """One call. Raises Overrun."""
    kinds = [argument.kind for argument in BY_NAME[name].arguments]
    arguments = [_Argument(kind, value) for kind, value in zip(kinds, values, strict=True)]
    words = [
        ctypes.byref(word) if isinstance(word, ctypes.Structure | Word) else word
        for argument in arguments
        for word in argument.words
    ]
    rv = client.call(name, *words)
    return Answer(rv, tuple(argument.result(rv) for argument in arguments))


def _go_on_in_child() -> None:
    """Returns in a forked child; and in the parent, once the child has returned. Does not where the child has died."""
    child = os.fork()
    if child and os.waitpid(child, 0)[1] != 0:
        os._exit(1)


def _serve(pipe: Connection, module: str, environment: Mapping[str, str]) -> None:
    os.setsid()
    client = Client(module, environment)
    while True:
        try:
            name, values = pipe.recv()
        except EOFError:
            os._exit(1)
        if name == _RETURN:
            os._exit(0)
        if name == _FORK:
            _go_on_in_child()
            pipe.send(Answer(ck.CKR_OK))
            continue
        try:
            pipe.send(perform(client, name, values))
        except Overrun as overrun:
            pipe.send(overrun)


class Worker:
    """The process. It is started again where its module has ended it."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._arguments = (module, dict(environment))
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._children = 0

    def call(self, name: str, *values: Any) -> Answer:
        """One call; CRASHED where the process died in it, HUNG where it did not answer. Raises Overrun."""
        try:
            self._pipe.send((name, values))
            if not self._pipe.poll(_LIMIT):
                self._kill()
                self._start()
                return Answer(HUNG)
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            self._start()
            return Answer(CRASHED)
        if isinstance(answer, Overrun):
            raise answer
        assert isinstance(answer, Answer)
        return answer

    def fork(self) -> Answer:
        """The calls that follow are those of a forked child."""
        answer = self.call(_FORK)
        self._children += answer.rv == ck.CKR_OK
        return answer

    def back(self) -> Answer:
        """The child ends as it is; the calls that follow are its parent's."""
        self._children -= 1
        return self.call(_RETURN)

    def home(self) -> None:
        """Back in the process that was there at first."""
        while self._children > 0:
            self.back()

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):
            self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._kill()

    def _kill(self) -> None:
        """With its children, which are of its session."""
        with suppress(ProcessLookupError):
            os.killpg(cast(int, self._process.pid), signal.SIGKILL)
        self._process.kill()
        self._process.join()
