"""Admission: a member whose token has the group's domain keys, and the same ones as the others, may stay.

Source: SEMANTICS.md sections 4 (not a member any more) and 5 (domain keys).
"""

from pyha.cryptoki import constants as ck
from pyha.ha.domain import DomainKey, domain_search
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, housekeeping, read_attributes, search
from pyha.runtime.member import Connection, MemberLost, SessionRefused


class NotAdmitted(Exception):
    """The token is not this group's (any more): one phrase."""


def admit(group: GroupRuntime) -> None:
    """After the application's login: each member that is in is looked at once; who lacks the keys is out."""
    if group.raw:
        return
    expected: dict[DomainKey, bytes] = {}
    for index, connection in group.present():
        try:
            found = locate(group, connection, group.deadline())
        except (NotAdmitted, SearchFailed, SessionRefused) as refusal:
            group.lost(index, connection.generation, f"not a member any more: {refusal}")
            continue
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        for key, check_value in found.items():
            if check_value and expected.setdefault(key, check_value) != check_value:
                group.lost(
                    index, connection.generation, f"not a member any more: its {key.value} domain key is another one"
                )
                break


def locate(group: GroupRuntime, connection: Connection, deadline: float) -> dict[DomainKey, bytes]:
    """Find the domain keys on a logged-in member, remember their handles; their check values (empty where the token has
    none). Raises NotAdmitted, SearchFailed, MemberLost."""
    check_values = {}
    with housekeeping(connection, deadline) as session:
        for key in DomainKey:
            found = search(connection, session, domain_search(group.settings.id, key), deadline)
            if len(found) != 1:
                raise NotAdmitted(
                    f"its {key.value} domain key is missing" if not found else f"it has several {key.value} domain keys"
                )
            shown = read_attributes(connection, session, found[0], (ck.CKA_CHECK_VALUE,), deadline)
            connection.domain[key] = found[0]
            check_values[key] = shown.get(ck.CKA_CHECK_VALUE, b"")
    return check_values


def domain_handle(group: GroupRuntime, connection: Connection, key: DomainKey, deadline: float) -> int:
    """A domain key's real handle on this member. Raises MemberLost where the token does not have it."""
    if key not in connection.domain:
        try:
            locate(group, connection, deadline)
        except (NotAdmitted, SearchFailed) as refusal:
            raise MemberLost(f"not a member any more: {refusal}") from None
    return connection.domain[key]
