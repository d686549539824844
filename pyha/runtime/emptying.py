"""Emptying a token before it becomes a member: all that it holds goes, but for the group's domain keys.

Used by the `pyha` command only, at the operator's explicit wish.

Source: SEMANTICS.md section 4 (a replaced token); docs/administration.md (`--existing remove`).
"""

from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import rv_name
from pyha.ha.domain import domain_search
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.housekeeping import SearchFailed, destroy, housekeeping, search
from pyha.runtime.member import MemberLost, SessionRefused


def destroy_all(candidate: Candidate, group_id: bytes) -> int:
    """Destroy every object of a logged-in token but this group's domain keys; how many there were. Raises NotServable,
    and then some are gone."""
    connection, destroyed = candidate.connection, 0
    try:
        with housekeeping(connection, candidate.deadline()) as session:
            kept = set(search(connection, session, domain_search(group_id), candidate.deadline()))
            for real in search(connection, session, (), candidate.deadline()):
                if real in kept:
                    continue
                rv = destroy(connection, session, real, candidate.deadline())
                if rv != ck.CKR_OK:
                    raise NotServable(
                        f"{candidate.name}: an object cannot be destroyed: {rv_name(rv)} ({destroyed} others are gone)"
                    )
                destroyed += 1
    except (MemberLost, SessionRefused, SearchFailed) as reason:
        raise NotServable(f"{candidate.name}: {reason} ({destroyed} objects are gone)") from None
    return destroyed
