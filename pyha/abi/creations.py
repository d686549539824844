"""Objects created from their templates in one hand-over: C_CreateObject as a series of calls (shim/protocol.h).

Knows C memory; knows no member and no session. In the arena: the turns, then room for a handle each, then the templates
with their values.

Source: PKCS #11 Base Specification 2.40, section 5.7 (C_CreateObject).
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any

from pyha.abi.link import TURN
from pyha.abi.memory import WORD, aligned
from pyha.abi.templates import span, write
from pyha.cryptoki.constants import CKR_DEVICE_ERROR, CKR_OK
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.values import Template

Created = tuple[int, int]
"""CK_RV and handle; 0 where there is none."""

_STEP = TURN // WORD.size
_CALL = Struct("@QQQQ")
"""hSession, pTemplate, ulCount, phObject."""


class Creations:
    """So many templates, one object of each. `function`: their C_CreateObject."""

    function = BY_NAME["C_CreateObject"]

    def __init__(self, templates: Sequence[Template]) -> None:
        self._spans = tuple(map(span, templates))

    def size(self, count: int) -> int:
        """Bytes of arena that the first `count` take."""
        return self._first(count) + sum(self._spans[:count])

    @staticmethod
    def _first(count: int) -> int:
        return aligned(count * (TURN + WORD.size))

    def write(self, arena: Any, session: int, objects: Sequence[Template]) -> int:
        """Lays the calls out (`arena`: as `codec.Memory` has it). `session`: the member's own handle; `objects`: the
        templates. Returns the bytes used."""
        count = len(objects)
        memory, there = arena.buffer, arena.there
        handles = count * TURN
        memory[handles : handles + count * WORD.size] = bytes(count * WORD.size)
        offset = self._first(count)
        for number, template in enumerate(objects):
            made = there + handles + number * WORD.size
            _CALL.pack_into(memory, number * TURN, session, there + offset, len(template), made)
            offset = write(memory, there, offset, template)
        return offset

    def read(self, arena: Any, count: int, made: int) -> list[Created | None]:
        """What the first `made` of `count` calls came to. A member that reports success and no handle has answered
        nonsense, and is said to have failed."""
        words = memoryview(arena.buffer[: count * (TURN + WORD.size)]).cast("Q").tolist()
        found: list[Created | None] = []
        for number in range(made):
            rv, handle = words[(number + 1) * _STEP - 1], words[count * _STEP + number]
            if rv == CKR_OK and not handle:
                rv = CKR_DEVICE_ERROR
            found.append((rv, handle if rv == CKR_OK else 0))
        return found
