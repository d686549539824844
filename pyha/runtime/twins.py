"""Which public key is that of a private EC key, which shows no public part of its own: its twin.

The one with its CKA_ID and curve, where there is one and has its label too; of several, or with another label, the one
that verifies what the private key signs, or agrees as it does: where its own was deleted, another key's would be taken
for it. A private DSA key does not show all of its public part either: its public key is looked for by CKA_ID, and the
proof by it decides.
Works on one member, on a session of its own, and leaves nothing there.

Source: SEMANTICS.md section 2 (binding); REPLICATION.md (identity and finding).
"""

from collections.abc import Collection, Mapping

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import KEY_TYPES
from pyha.cryptoki.values import Attribute
from pyha.ha.identity import Identity, flag, number, ulong
from pyha.runtime.housekeeping import read_attributes, search
from pyha.runtime.member import Connection
from pyha.runtime.proving import Signature, agrees_as, public_proof

_MOST = 8
"""So many public keys of one CKA_ID are tried, at most."""

_FOR_PROOF = (ck.CKA_SIGN, ck.CKA_DERIVE, ck.CKA_ALWAYS_AUTHENTICATE, ck.CKA_ALLOWED_MECHANISMS)


def twin_proof(key_type: int | None, parameters: bytes | None, point: bytes | None) -> Signature | None:
    """How a private EC key is told from others by its public key (CKA_EC_PARAMS, CKA_EC_POINT); None where that is not
    known, and for keys of Edwards and Montgomery curves, which do not sign so."""
    if key_type != ck.CKK_EC or parameters is None or point is None:
        return None
    return public_proof(ck.CKK_EC, {ck.CKA_EC_PARAMS: parameters, ck.CKA_EC_POINT: point})


def proof_of(identity: Identity) -> Signature | None:
    """`twin_proof` of what is known of a private key; None for a key of another type."""
    return twin_proof(identity.key_type, identity.get(ck.CKA_EC_PARAMS), identity.twin)


def proves(connection: Connection, real: int, proof: Signature, deadline: float) -> bool | None:
    """Whether this (real handle) is the key; None where it cannot be put to the proof. Raises MemberLost,
    SessionRefused, SearchFailed."""
    session = connection.open_session(deadline)
    try:
        shown = read_attributes(connection, session, real, _FOR_PROOF, deadline)
        allowed = shown.get(ck.CKA_ALLOWED_MECHANISMS)
        asks = flag(shown.get(ck.CKA_ALWAYS_AUTHENTICATE))
        if asks or allowed:
            return None
        if flag(shown.get(proof.needs)):
            return proof.holds(connection, session, real, deadline)
        if proof.key_type != ck.CKK_EC or not flag(shown.get(ck.CKA_DERIVE)):
            return None
        public = proof.public
        return agrees_as(connection, session, real, public[ck.CKA_EC_PARAMS], public[ck.CKA_EC_POINT], deadline)
    finally:
        connection.discard(session, deadline)


def twin_among(
    connection: Connection,
    real: int,
    attributes: Mapping[int, bytes],
    points: Collection[bytes],
    deadline: float,
) -> bytes | None:
    """The twin of a private key (real handle, and what it shows) among these points; None where it is none of them, or
    one of several and it cannot be told which. Raises as `proves` does."""
    if len(points) > _MOST:
        return None
    for point in sorted(points):
        proof = twin_proof(number(attributes.get(ck.CKA_KEY_TYPE)), attributes.get(ck.CKA_EC_PARAMS), point)
        if proof is None:
            return point if len(points) == 1 else None
        found = proves(connection, real, proof, deadline)
        if found is None or found:
            return point if found or len(points) == 1 else None
    return None


def whole_public_part(
    connection: Connection, session: int, key_type: int, known: Mapping[int, bytes], deadline: float
) -> dict[int, bytes]:
    """What is known of a private key's public part (`known`: what it shows, its CKA_ID too), and what else the only
    public key of its CKA_ID and type tells; not of EC keys, which have twins. Raises MemberLost, SearchFailed."""
    row, key_id = KEY_TYPES.get(key_type), known.get(ck.CKA_ID)
    missing = [kind for kind in row.public if kind not in known] if row is not None else []
    if not missing or ck.CKA_EC_POINT in missing or not key_id:
        return dict(known)
    template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_PUBLIC_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(key_type)),
        Attribute(ck.CKA_ID, key_id),
    )
    found = search(connection, session, template, deadline)
    if len(found) != 1:
        return dict(known)
    return {**known, **read_attributes(connection, session, found[0], missing, deadline)}
