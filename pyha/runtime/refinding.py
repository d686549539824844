"""Finding again what was just made on a member, after its login and with it the handles of private objects were lost.

A handle that went with its login says nothing of the object, which is still there: taken for gone it would stay, and be
made twice. It is looked for by what it was made with; where several are like it, by the proof of its key; and where
that leaves more than one, nothing is touched.

Source: SEMANTICS.md sections 2 (healing) and 5 (nothing half-made stays).
"""

from collections.abc import Callable

from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.identity import Identity
from pyha.ha.records import EscrowRecord
from pyha.runtime import escrow
from pyha.runtime.housekeeping import SearchFailed, destroy, is_gone, search
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.proving import CheckValue, Proof

Find = Callable[[Connection, int, float], list[int]]
"""(connection, real session, deadline) -> the real handles that an object may have now, which was made there before.
Raises MemberLost, SessionRefused, SearchFailed."""

_TOLD_BY = (
    ck.CKA_CLASS,
    ck.CKA_KEY_TYPE,
    ck.CKA_ID,
    ck.CKA_LABEL,
    ck.CKA_SUBJECT,
    ck.CKA_ISSUER,
    ck.CKA_SERIAL_NUMBER,
    ck.CKA_APPLICATION,
    ck.CKA_OBJECT_ID,
    ck.CKA_MODULUS,
    ck.CKA_EC_POINT,
)
"""What a search may name: nothing secret, and nothing that a member may show otherwise than it was given."""


def made_with(template: Template, proof: Proof | None = None) -> Find:
    """A token object that was made with this template; of several the ones that `proof` holds for, where that reads."""
    wanted = _wanted(template)

    def find(connection: Connection, session: int, deadline: float) -> list[int]:
        # What the application knows was there before.
        found = [real for real in search(connection, session, wanted, deadline) if real not in connection.known]
        if len(found) > 1 and proof is not None and not isinstance(proof, CheckValue):
            found = [real for real in found if proof.holds(connection, session, real, deadline)]
        return found

    return find


def count_made_with(connection: Connection, session: int, template: Template, deadline: float) -> int:
    """How many token objects there are that may have been made with this template. Raises MemberLost, SearchFailed."""
    return len(search(connection, session, _wanted(template), deadline))


def _wanted(template: Template) -> Template:
    told = (each for each in template if each.type in _TOLD_BY and each.value)
    return (*told, Attribute(ck.CKA_TOKEN, b"\1"))


def clear_remainder(
    connection: Connection, session: int, template: Template, proof: Proof | None, fresh: bool, deadline: float
) -> None:
    """Of a member that failed without a reason at making this token object: it may have made it all the same, under a
    handle that nobody was told. `fresh`: there was none of the same value before; then what `proof` holds for, or has
    the public key of the template, is destroyed. Raises MemberLost where it cannot be told what is there, or be
    destroyed: its resync sees what the others have."""
    public = any(each.type in (ck.CKA_MODULUS, ck.CKA_EC_POINT) and each.value for each in template)
    try:
        for real in made_with(template)(connection, session, deadline):
            if not fresh or (proof is None and not public):
                raise MemberLost(DOUBTFUL)
            if proof is None or proof.holds(connection, session, real, deadline):
                rv = destroy(connection, session, real, deadline)
                if not is_gone(connection, session, real, deadline):
                    raise MemberLost(f"{DOUBTFUL}: C_DestroyObject answered {rv_name(rv)}")
    except (SearchFailed, SessionRefused) as failure:
        raise MemberLost(f"{DOUBTFUL}: {failure}") from None


DOUBTFUL = "it may hold what it failed to make; it needs a resync"


def went_with_its_login(connection: Connection, session: int, deadline: float) -> list[int]:
    """A session object: there is nothing to find."""
    return []


def record_like(record: EscrowRecord, identity: Identity) -> Find:
    """A copy of this record: equal ones are each as good as the other."""

    def find(connection: Connection, session: int, deadline: float) -> list[int]:
        return [
            real for real, found in escrow.find(connection, record.group_id, identity, deadline) if found == record
        ][:1]

    return find
