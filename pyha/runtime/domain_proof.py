"""The proof that a token's AES domain keys are these and no others: a known key is wrapped under each.

The known key is a session object for the time of the calls, and no search of the member can see it.

Source: SEMANTICS.md section 5 (domain keys); REPLICATION.md (CKM_AES_KEY_WRAP is deterministic).
"""

from collections.abc import Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Mechanism, Out, Template
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.domain import DomainHandles
from pyha.ha.fingerprints import KNOWN, proof_of
from pyha.ha.identity import ulong
from pyha.runtime.housekeeping import SearchFailed, boolean
from pyha.runtime.member import Connection, MemberLost

_KNOWN: Template = (
    Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
    Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_AES)),
    boolean(ck.CKA_TOKEN, False),
    boolean(ck.CKA_PRIVATE, True),
    boolean(ck.CKA_EXTRACTABLE, True),
    Attribute(ck.CKA_VALUE, KNOWN),
)
_ROOM = 64


def proofs(connection: Connection, keys: Sequence[DomainHandles], deadline: float) -> list[bytes]:
    """The proof of each of these AES domain keys (`fingerprints.Fingerprint.proof`), empty where the token wraps no
    such key. Raises MemberLost, SearchFailed, SessionRefused."""
    # Beside no search: an application's, say, would find the known key, which goes with the session.
    connection.enter_catalogue(deadline, alone=True)
    try:
        session = connection.open_session(deadline)
        try:
            rv, results = connection.call("C_CreateObject", deadline, session, _KNOWN, None)
            known = int(results[-1]) if _well(rv) else None
            return [_proof(connection, session, each.wrapping, known, deadline) for each in keys]
        finally:
            connection.discard(session, deadline)
    finally:
        connection.catalogue.leave()


def _proof(connection: Connection, session: int, wrapping: int, known: int | None, deadline: float) -> bytes:
    if known is None:
        return b""
    mechanism = Mechanism(ck.CKM_AES_KEY_WRAP)
    rv, results = connection.call("C_WrapKey", deadline, session, mechanism, wrapping, known, Out(_ROOM))
    return proof_of(results[4][1]) if _well(rv) else b""


def _well(rv: int) -> bool:
    """False for a refusal, which says that the token cannot do it. Raises MemberLost, and SearchFailed where the answer
    says nothing of the key."""
    if rv == ck.CKR_OK:
        return True
    judgement = verdict(Route.READ, rv)
    if judgement is Verdict.MEMBER_LOST:
        raise MemberLost(f"the proof of a domain key answered {rv_name(rv)}")
    if judgement is not Verdict.ANSWER:
        raise SearchFailed(rv)
    return False
