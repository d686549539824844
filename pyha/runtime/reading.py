"""Retrieval: attributes and sizes, from one member, the same whichever member answers.

What tells of a key's past reads alike on every member (the weaker truth); the length of a key that a module does not
tell for a copy comes from what we know of it.

Source: SEMANTICS.md sections 3 (retrieval) and 5; REPLICATION.md (attributes of a copy).
"""

from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import HISTORY
from pyha.cryptoki.functions import Function
from pyha.cryptoki.kinds import Kind
from pyha.cryptoki.values import Found
from pyha.ha.identity import number, ulong
from pyha.runtime.binding import bind
from pyha.runtime.calls import SingleCall
from pyha.runtime.failover import run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import housekeeping
from pyha.runtime.lengths import key_length
from pyha.runtime.member import MemberLost
from pyha.runtime.objects import Entry
from pyha.runtime.outcomes import Refusal
from pyha.runtime.steps import step

_QUERY = Kind.QUERY  # looked up once: Python 3.11 is slow at it
_CORRECTED = frozenset({*HISTORY, ck.CKA_VALUE_LEN})
"""The attributes that are not always answered as the member did."""

_KEYS = (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY)


def read(group: GroupRuntime, function: Function, values: list[Any]) -> tuple[int, list[Any]]:
    """A READ call: (CK_RV, results). Raises NobodyLeft, Unknown."""
    call = SingleCall(group, function, values)
    rv, results = run(group, call)
    if group.raw or not results:
        return rv, results
    for position, argument in enumerate(function.arguments):
        if argument.kind is _QUERY and results[position] is not None:
            if not any(found.type in _CORRECTED for found in results[position]):
                continue
            entry = group.objects.get(values[1])
            alike = entry is not None and (entry.identity.token or entry.follows)
            if entry is not None and alike and entry.identity.object_class in _KEYS:
                results[position] = tuple(_alike(group, call.index, entry, found) for found in results[position])
    return rv, results


def _alike(group: GroupRuntime, index: int, entry: Entry, found: Found) -> Found:
    """One attribute as every member answers it; `index`: the member that answered."""
    past = HISTORY.get(found.type)
    if past is not None and found.length is not None:
        return Found(found.type, len(past), past if found.value is not None else None)
    if found.type == ck.CKA_VALUE_LEN and found.value is not None and number(bytes(found.value)) == 0:
        length = _length(group, index, entry)
        if length:
            return Found(found.type, found.length, ulong(length))
    return found


def _length(group: GroupRuntime, index: int, entry: Entry) -> int | None:
    """Bytes of a secret key, found out on this member; None where it cannot be."""
    if entry.value_length is not None:
        return entry.value_length
    connection = group.connections[index]
    if connection is None:
        return None

    def attempt(deadline: float) -> tuple[int, int | None]:
        real = bind(group, index, connection, entry, deadline)
        if real is None:
            return ck.CKR_OK, None
        with housekeeping(connection, deadline) as session:
            return ck.CKR_OK, key_length(group, connection, session, real, entry, deadline)

    try:
        return step(group, index, connection, "C_GetAttributeValue", attempt)[1]
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
    except Refusal:
        pass
    return None
