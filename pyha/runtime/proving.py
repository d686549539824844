"""Proof that a copy is the key it was made from. A clone is believed only after it was verified.

A secret key by its check value: the member must refuse a wrong one and take the right one. A private key by a
signature that the public key of the original verifies; where no public key is known, by a secret that the original and
the copy must agree on with the same other party.

Source: REPLICATION.md ("a clone is believed only after it was verified"; CKA_CHECK_VALUE).
"""

from collections.abc import Mapping
from typing import Protocol

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route
from pyha.cryptoki.keys import KEY_TYPES, USAGE
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import dataclass, field
from pyha.cryptoki.values import Attribute, Mechanism, Out, Parameter, Region, Template
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.identity import ulong
from pyha.runtime.housekeeping import SearchFailed, boolean, make, read_attributes
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.outcomes import Unreplicable, is_without_reason

_MESSAGE = bytes(range(20))
_SIGNATURE_ROOM = 4096
_AGREED = 16
"""Bytes of the agreed secret that are compared."""

_SIGNING: dict[int, int] = {
    ck.CKK_RSA: ck.CKM_RSA_PKCS,
    ck.CKK_EC: ck.CKM_ECDSA,
    ck.CKK_DSA: ck.CKM_DSA,
}
"""Key type -> a mechanism that signs a short message as it is."""

_AGREEING: dict[int, tuple[int, int]] = {
    ck.CKK_EC: (ck.CKM_EC_KEY_PAIR_GEN, ck.CKM_ECDH1_DERIVE),
    ck.CKK_DH: (ck.CKM_DH_PKCS_KEY_PAIR_GEN, ck.CKM_DH_PKCS_DERIVE),
}
"""Key type -> mechanisms that make the other party's pair and agree with it."""


class Proof(Protocol):
    """How a copy is to be proved. `needs`: the usage flag that it must have for that, None for none. `mechanism`:
    CKM_ that it must be allowed, None for none."""

    @property
    def needs(self) -> int | None: ...

    @property
    def mechanism(self) -> int | None: ...

    def holds(self, connection: Connection, session: int, copy: int, deadline: float) -> bool:
        """Whether `copy` (real handle) is the key. What it makes are session objects of `session`, which the caller
        discards. Raises MemberLost, SearchFailed."""


def well(rv: int, what: str = "the proof of a key") -> bool:
    """Whether a step on the way to a proved copy succeeded. Raises SearchFailed where the session or the login is lost,
    and the handles of private objects with it, and MemberLost: what the member answers then says nothing of the key."""
    judgement = verdict(Route.READ, rv)
    if judgement in (Verdict.SESSION_LOST, Verdict.LOGIN_LOST, Verdict.HANDLE_STALE):
        raise SearchFailed(rv)
    if judgement is Verdict.MEMBER_LOST:
        raise MemberLost(f"{what} answered {rv_name(rv)}")
    return rv == ck.CKR_OK


def _reasoned(rv: int) -> bool:
    """`well`, for what is to be proved: an answer without a reason disproves nothing. Raises SearchFailed for one."""
    if is_without_reason(rv):
        raise SearchFailed(rv)
    return well(rv)


@dataclass(frozen=True, slots=True)
class CheckValue:
    """A secret key's check value."""

    check_value: bytes
    needs: None = None
    mechanism: None = None

    def holds(self, connection: Connection, session: int, copy: int, deadline: float) -> bool:
        """As `Proof` has it; the copy must be modifiable."""
        return prove_secret(connection, session, copy, self.check_value, deadline)


@dataclass(frozen=True, slots=True)
class Signature:
    """A private key whose public key is known by its attributes."""

    key_type: int
    public: Mapping[int, bytes]
    needs: int = ck.CKA_SIGN

    @property
    def mechanism(self) -> int:
        return _SIGNING[self.key_type]

    def holds(self, connection: Connection, session: int, copy: int, deadline: float) -> bool:
        """As `Proof` has it."""
        mechanism = Mechanism(self.mechanism)
        verifier = _verifier(self.key_type, self.public)
        rv, public = make(connection, "C_CreateObject", deadline, session, verifier, None)
        if not _reasoned(rv):
            return False
        if not _reasoned(connection.call("C_SignInit", deadline, session, mechanism, copy)[0]):
            return False
        rv, results = connection.call("C_Sign", deadline, session, _MESSAGE, Out(_SIGNATURE_ROOM))
        if not _reasoned(rv):
            return False
        if not _reasoned(connection.call("C_VerifyInit", deadline, session, mechanism, public)[0]):
            return False
        return _reasoned(connection.call("C_Verify", deadline, session, _MESSAGE, results[2][1])[0])


@dataclass(frozen=True, slots=True)
class Agreement:
    """A private key that no public key is known of. `agreed`: what the original and the other party agreed on."""

    parameter: Mechanism
    agreed: bytes = field(repr=False)
    needs: int = ck.CKA_DERIVE

    @property
    def mechanism(self) -> int:
        return self.parameter.type

    def holds(self, connection: Connection, session: int, copy: int, deadline: float) -> bool:
        """As `Proof` has it."""
        return _agree(connection, session, copy, self.parameter, deadline) == self.agreed


def check_value_proof(check_value: bytes | None) -> CheckValue:
    """The proof by this check value. Raises Unreplicable where there is none."""
    if not check_value:
        raise Unreplicable("there is no check value, by which a copy is proved", doubtful=True)
    return CheckValue(check_value)


def gives_back(made: tuple[int, int], proof: Proof, connection: Connection, session: int, deadline: float) -> bool:
    """Whether what was made of a key's carried form, tried on the original's own session, is the very key. `made`:
    (CK_RV, real handle). Raises Unreplicable where the module fails at it without a reason, MemberLost,
    SearchFailed."""
    rv, copy = made
    if is_without_reason(rv):
        raise Unreplicable(f"C_UnwrapKey answered {rv_name(rv)}", doubtful=True)
    return rv == ck.CKR_OK and proof.holds(connection, session, copy, deadline)


ZERO_BLOCK: dict[int, tuple[int, int]] = {
    ck.CKK_AES: (ck.CKM_AES_ECB, 16),
    ck.CKK_DES: (ck.CKM_DES_ECB, 8),
    ck.CKK_DES2: (ck.CKM_DES3_ECB, 8),
    ck.CKK_DES3: (ck.CKM_DES3_ECB, 8),
}
"""Key type -> mechanism and block (bytes) whose encryption begins with the key's check value (section 4.8.2)."""
_CHECK_VALUE = 3


def encrypts_for_check_value(key_type: int) -> bool:
    """Whether a key of this type must encrypt for its check value to be computed; else it is digested."""
    return key_type in ZERO_BLOCK


def computed_check_value(connection: Connection, session: int, key: int, key_type: int, deadline: float) -> bytes:
    """The check value of a secret key (real handle) that its module does not tell: the encryption of a block of zeros,
    or for a key of no cipher SHA-1 over its value, three bytes; empty where the module does neither. Raises
    MemberLost, SearchFailed."""
    if key_type in ZERO_BLOCK:
        mechanism, block = ZERO_BLOCK[key_type]
        if not well(connection.call("C_EncryptInit", deadline, session, Mechanism(mechanism), key)[0]):
            return b""
        rv, results = connection.call("C_Encrypt", deadline, session, bytes(block), Out(64))
        return bytes(results[2][1][:_CHECK_VALUE]) if well(rv) else b""
    if not well(connection.call("C_DigestInit", deadline, session, Mechanism(ck.CKM_SHA_1))[0]):
        return b""
    if not well(connection.call("C_DigestKey", deadline, session, key)[0]):
        return b""
    rv, results = connection.call("C_DigestFinal", deadline, session, Out(64))
    return bytes(results[1][1][:_CHECK_VALUE]) if well(rv) else b""


def public_proof(key_type: int, public: Mapping[int, bytes]) -> Signature | None:
    """The proof by this public key; None where it is not whole, or keys of this type do not sign."""
    row = KEY_TYPES.get(key_type)
    if row is None or key_type not in _SIGNING or not all(public.get(kind) for kind in row.public):
        return None
    return Signature(key_type, {kind: public[kind] for kind in row.public})


def can_agree(key_type: int) -> bool:
    """Whether a private key of this type can be proved by agreement."""
    return key_type in _AGREEING


def agreement(
    connection: Connection, session: int, original: int, key_type: int, shown: Mapping[int, bytes], deadline: float
) -> Agreement | None:
    """The proof by what `original` (real handle, may derive) agrees on with a party made up for it; None where the
    member does not do it. `shown`: its attributes. Raises MemberLost, SearchFailed."""
    party = _party(connection, session, key_type, shown, deadline)
    if party is None:
        return None
    mechanism = party[1]
    try:
        agreed = _agree(connection, session, original, mechanism, deadline)
    except SearchFailed as failure:
        if not is_without_reason(failure.rv):
            raise
        return None
    return Agreement(mechanism, agreed) if agreed else None


def agrees_as(
    connection: Connection, session: int, key: int, parameters: bytes, point: bytes, deadline: float
) -> bool | None:
    """Whether a private EC key (real handle, may derive) is that of this public one (CKA_EC_PARAMS, CKA_EC_POINT): with
    a party made up for it both come to the same. None where the member does not do it. Raises MemberLost,
    SearchFailed."""
    party = _party(connection, session, ck.CKK_EC, {ck.CKA_EC_PARAMS: parameters}, deadline)
    if party is None:
        return None
    private, mechanism = party
    derivation = _AGREEING[ck.CKK_EC][1]
    try:
        expected = _agree(connection, session, private, Mechanism(derivation, _ecdh(_raw_point(point))), deadline)
        agreed = _agree(connection, session, key, mechanism, deadline)
    except SearchFailed as failure:
        if not is_without_reason(failure.rv):
            raise
        return None
    return agreed == expected if agreed and expected else None


def _party(
    connection: Connection, session: int, key_type: int, shown: Mapping[int, bytes], deadline: float
) -> tuple[int, Mechanism] | None:
    """A party to agree with, made up on a key's domain: its private key (real handle), and the mechanism that agrees
    with it; None where the member makes none."""
    generation, derivation = _AGREEING[key_type]
    row = KEY_TYPES[key_type]
    domain = tuple(Attribute(kind, shown[kind]) for kind in row.on_private if kind in shown)
    public: Template = (boolean(ck.CKA_TOKEN, False), *(each for each in domain if each.type in row.public))
    private = (boolean(ck.CKA_TOKEN, False), boolean(ck.CKA_DERIVE, True))
    rv, results = connection.call(
        "C_GenerateKeyPair", deadline, session, Mechanism(generation), public, private, None, None
    )
    if not well(rv):
        return None
    wanted = ck.CKA_EC_POINT if key_type == ck.CKK_EC else ck.CKA_VALUE
    point = read_attributes(connection, session, results[4], (wanted,), deadline).get(wanted)
    if not point:
        return None
    parameter = _ecdh(_raw_point(point)) if key_type == ck.CKK_EC else Parameter(point)
    return int(results[5]), Mechanism(derivation, parameter)


def _ecdh(point: bytes) -> Parameter:
    # CK_ECDH1_DERIVE_PARAMS: kdf, shared data (none), public data.
    raw = ulong(ck.CKD_NULL) + ulong(0) + ulong(0) + ulong(len(point)) + ulong(0)
    return Parameter(raw, (Region(32, point),))


def _raw_point(point: bytes) -> bytes:
    """The point itself out of CKA_EC_POINT, which is a DER OCTET STRING of it."""
    if len(point) > 2 and point[0] == 0x04:
        head = 2 if point[1] < 0x80 else 2 + (point[1] & 0x7F)
        length = point[1] if head == 2 else int.from_bytes(point[2:head], "big")
        if len(point) == head + length and point[head] in (2, 3, 4):
            return point[head:]
    return point


def _agree(connection: Connection, session: int, key: int, mechanism: Mechanism, deadline: float) -> bytes | None:
    template: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_GENERIC_SECRET)),
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_SENSITIVE, False),
        boolean(ck.CKA_EXTRACTABLE, True),
        Attribute(ck.CKA_VALUE_LEN, ulong(_AGREED)),
    )
    rv, secret = make(connection, "C_DeriveKey", deadline, session, mechanism, key, template, None)
    if not _reasoned(rv):
        return None
    return read_attributes(connection, session, secret, (ck.CKA_VALUE,), deadline, sure=True).get(ck.CKA_VALUE)


def _verifier(key_type: int, public: Mapping[int, bytes]) -> Template:
    usage = (Attribute(kind, b"\1" if kind == ck.CKA_VERIFY else b"\0") for kind in USAGE[ck.CKO_PUBLIC_KEY])
    return (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_PUBLIC_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(key_type)),
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_PRIVATE, False),
        *(Attribute(kind, value) for kind, value in public.items()),
        *usage,
    )


def prove_secret(connection: Connection, session: int, copy: int, check_value: bytes, deadline: float) -> bool:
    """Whether the secret key `copy` (real handle) has this check value. Where the module leaves a copy's empty it is
    set, once it has been seen that a wrong one is refused. Raises MemberLost, SearchFailed."""
    if not check_value:
        return False
    told = (ck.CKA_CHECK_VALUE,)
    shown = read_attributes(connection, session, copy, told, deadline, sure=True).get(ck.CKA_CHECK_VALUE)
    if shown:
        return shown == check_value
    wrong = bytes([check_value[0] ^ 1]) + check_value[1:]
    if well(set_check_value(connection, session, copy, wrong, deadline)):
        return False
    return _reasoned(set_check_value(connection, session, copy, check_value, deadline))


def set_check_value(connection: Connection, session: int, key: int, value: bytes, deadline: float) -> int:
    """Set CKA_CHECK_VALUE of a key (real handle): the CK_RV. Raises MemberLost."""
    template: Template = (Attribute(ck.CKA_CHECK_VALUE, value),)
    connection.enter_catalogue(deadline, alone=True)
    try:
        return connection.call("C_SetAttributeValue", deadline, session, key, template)[0]
    finally:
        connection.catalogue.leave()
