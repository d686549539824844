"""Whether members have changed what they say to have changed: each is asked afterwards what the object shows.

Knows what one change asks for, and what each member shows then; what is done about it is the caller's. A module may
show a value in a form of its own, or pass over what it does not know: nothing is wrong where all members do alike.

Source: SEMANTICS.md section 3 (change).
"""

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import PROTECTIONS
from pyha.cryptoki.values import Template
from pyha.ha.arrays import DATES
from pyha.ha.identity import flag
from pyha.runtime.housekeeping import SearchFailed, read_attributes
from pyha.runtime.member import Connection

UNCHANGED = "C_SetAttributeValue (answered CKR_OK, and the object is as it was)"

_NOT_COMPARED = frozenset({ck.CKA_CHECK_VALUE, ck.CKA_ALLOWED_MECHANISMS, *DATES})
"""What modules show otherwise than it was given, or not at all."""


def otherwise(
    connection: Connection, session: int, real: int, template: Template, deadline: float
) -> tuple[frozenset[int], frozenset[int]]:
    """Of the attributes that this template sets: those that the object (real handle) shows as asked, and those that it
    shows otherwise; what it does not show, or what cannot be read now, is in neither. Raises MemberLost."""
    asked = {
        each.type: bytes(each.value or b"")
        for each in template
        if not isinstance(each.value, tuple) and each.type not in _NOT_COMPARED
    }
    try:
        shown = read_attributes(connection, session, real, asked, deadline) if asked else {}
    except SearchFailed:
        return frozenset(), frozenset()
    same = frozenset(kind for kind, value in shown.items() if _same(kind, value, asked[kind]))
    return same, frozenset(shown) - same


def _same(kind: int, one: bytes, other: bytes) -> bool:
    return flag(one) == flag(other) if kind in PROTECTIONS else one == other


class Following:
    """What the members show after one change with this template; None: a deletion, of which nothing is to be seen."""

    def __init__(self, template: Template | None) -> None:
        self._template = template or ()
        self._shown: dict[int, tuple[Connection, frozenset[int], frozenset[int]]] = {}

    def look(self, index: int, connection: Connection, session: int, real: int, deadline: float) -> None:
        """This member has answered CKR_OK for the object of this handle. Raises MemberLost."""
        if self._template:
            self._shown[index] = connection, *otherwise(connection, session, real, self._template, deadline)

    def is_nowhere(self) -> bool:
        """Whether nothing was changed on any member, as far as they show it."""
        shown = self._shown.values()
        return any(other for _, _, other in shown) and not any(same for _, same, _ in shown)

    def behind(self) -> list[tuple[int, Connection]]:
        """The members that do not show as asked what another one does."""
        changed = frozenset().union(*(same for _, same, _ in self._shown.values()))
        return [(index, connection) for index, (connection, _, other) in self._shown.items() if other & changed]
