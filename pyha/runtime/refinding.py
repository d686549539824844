"""Finding again what was just made on a member, after its login and with it the handles of private objects were lost.

A handle that went with its login says nothing of the object, which is still there: taken for gone it would stay, and be
made twice. It is looked for by what it was made with; where several are like it, by the proof of its key; and where
that leaves more than one, nothing is touched.

Source: SEMANTICS.md sections 2 (healing) and 5 (nothing half-made stays).
"""

from collections.abc import Callable

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.identity import Identity
from pyha.ha.records import EscrowRecord
from pyha.runtime import escrow
from pyha.runtime.housekeeping import search
from pyha.runtime.member import Connection
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
    told = (each for each in template if each.type in _TOLD_BY and each.value)
    wanted = (*told, Attribute(ck.CKA_TOKEN, b"\1"))

    def find(connection: Connection, session: int, deadline: float) -> list[int]:
        # What the application knows was there before.
        found = [real for real in search(connection, session, wanted, deadline) if real not in connection.known]
        if len(found) > 1 and proof is not None and not isinstance(proof, CheckValue):
            found = [real for real in found if proof.holds(connection, session, real, deadline)]
        return found

    return find


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
