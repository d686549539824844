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
from pyha.runtime.calls import SingleCall
from pyha.runtime.failover import run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.objects import Entry

_KEYS = (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY)


def read(group: GroupRuntime, function: Function, values: list[Any]) -> tuple[int, list[Any]]:
    """A READ call: (CK_RV, results). Raises NobodyLeft, Unknown."""
    rv, results = run(group, SingleCall(group, function, values))
    if group.raw or not results:
        return rv, results
    for position, argument in enumerate(function.arguments):
        if argument.kind is Kind.QUERY and results[position] is not None:
            entry = group.objects.get(values[1])
            if entry is not None and entry.identity.token and entry.identity.object_class in _KEYS:
                results[position] = tuple(_alike(found, entry) for found in results[position])
    return rv, results


def _alike(found: Found, entry: Entry) -> Found:
    """One attribute as every member answers it."""
    past = HISTORY.get(found.type)
    if past is not None and found.length is not None:
        return Found(found.type, len(past), past if found.value is not None else None)
    if found.type == ck.CKA_VALUE_LEN and entry.value_length and number(found.value) == 0:
        return Found(found.type, found.length, ulong(entry.value_length))
    return found
