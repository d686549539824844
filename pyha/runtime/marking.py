"""Marks of secret keys: what a member's module makes of a key's value and a challenge, so that two that cannot be told
apart otherwise are known to be one, or not.

Knows one member at a time. The value never leaves the token: the module digests it, which it is believed after it has
digested a known key as it should, or encrypts the challenge with it. No MAC: it would be the same for two secrets of
which one is the other with zeros after it.

Source: SEMANTICS.md section 5 (duplicates); REPLICATION.md (zero-padded copies).
"""

import os
from collections.abc import Sequence
from hashlib import sha256

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Mechanism, Out, Template
from pyha.ha.identity import number, ulong
from pyha.ha.marking import Marks
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import boolean, make, read_attributes
from pyha.runtime.member import Connection
from pyha.runtime.proving import ZERO_BLOCK, well

CHALLENGE = 32
"""Bytes: of a multiple of every cipher's block."""


def marks_of(group: GroupRuntime, connection: Connection, reals: Sequence[int], challenge: bytes) -> dict[int, Marks]:
    """The marks of these secret keys (real handles) for this challenge. Raises MemberLost, SessionRefused,
    SearchFailed."""
    digests = _is_digested_whole(connection, challenge, group.deadline())
    found: dict[int, Marks] = {}
    for real in reals:
        digest = _digest(connection, real, challenge, group.deadline()) if digests else b""
        found[real] = digest, _cipher_text(connection, real, challenge, group.deadline())
    return found


def _is_digested_whole(connection: Connection, challenge: bytes, deadline: float) -> bool:
    """Whether the module digests the value of a key, and all of it: tried with one that is known."""
    value = os.urandom(CHALLENGE)
    template: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_GENERIC_SECRET)),
        boolean(ck.CKA_TOKEN, False),
        Attribute(ck.CKA_VALUE, value),
    )
    session = connection.open_session(deadline)
    try:
        rv, known = make(connection, "C_CreateObject", deadline, session, template, None)
        expected = sha256(challenge + value).digest()
        return well(rv) and _digest_on(connection, session, known, challenge, deadline) == expected
    finally:
        connection.discard(session, deadline)


def _digest(connection: Connection, real: int, challenge: bytes, deadline: float) -> bytes:
    # On a session of its own: where it is refused, the operation may stay.
    session = connection.open_session(deadline)
    try:
        return _digest_on(connection, session, real, challenge, deadline)
    finally:
        connection.discard(session, deadline)


def _digest_on(connection: Connection, session: int, real: int, challenge: bytes, deadline: float) -> bytes:
    if not well(connection.call("C_DigestInit", deadline, session, Mechanism(ck.CKM_SHA256))[0]):
        return b""
    if not well(connection.call("C_DigestUpdate", deadline, session, challenge)[0]):
        return b""
    if not well(connection.call("C_DigestKey", deadline, session, real)[0]):
        return b""
    rv, results = connection.call("C_DigestFinal", deadline, session, Out(64))
    return bytes(results[1][1]) if well(rv) else b""


def _cipher_text(connection: Connection, real: int, challenge: bytes, deadline: float) -> bytes:
    session = connection.open_session(deadline)
    try:
        shown = read_attributes(connection, session, real, (ck.CKA_KEY_TYPE,), deadline, sure=True)
        cipher = ZERO_BLOCK.get(number(shown.get(ck.CKA_KEY_TYPE)) or 0)
        if cipher is None:
            return b""
        if not well(connection.call("C_EncryptInit", deadline, session, Mechanism(cipher[0]), real)[0]):
            return b""
        rv, results = connection.call("C_Encrypt", deadline, session, challenge, Out(64))
        return bytes(results[2][1]) if well(rv) else b""
    finally:
        connection.discard(session, deadline)
