"""Publishing a key: from its extractable session original on one member to the same token object on every member.

Order (SEMANTICS.md section 5): wrap, write the escrow record everywhere, unwrap everywhere (the first member included),
prove, and only then is it the application's. Whatever fails before is taken back; a member that is lost on the way is
resynchronised before it serves again.
"""

from collections.abc import Mapping

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import wrapping_for
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Attribute, Out, Template
from pyha.ha.arrays import is_dated, values_of
from pyha.ha.domain import DomainKey, rsa_of, wrapping_mechanism
from pyha.ha.identity import Identity, number
from pyha.ha.records import EscrowRecord, fingerprint_of
from pyha.ha.replication import domain_for, value_of
from pyha.ha.telling import type_names
from pyha.runtime import escrow
from pyha.runtime.admission import domain_handles
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, make
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.outcomes import Unreplicable, is_without_reason, refused
from pyha.runtime.proving import CheckValue, Proof, well
from pyha.runtime.refinding import made_with, record_like
from pyha.runtime.showing import weaknesses
from pyha.runtime.steps import Placed, on_each, step

_BLOB_ROOM = 16384


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A key on its way. `template`: of the object to be. `shown`: attributes read from the original. `length`: of a
    secret key's value, bytes, where it is known."""

    domain: DomainKey
    mechanism: int
    blob: bytes
    template: Template
    shown: Mapping[int, bytes]
    length: int | None

    @property
    def value_length(self) -> int | None:
        """Bytes of a secret key, where it is known."""
        return self.length if number(self.shown.get(ck.CKA_CLASS)) == ck.CKO_SECRET_KEY else None

    @property
    def recorded(self) -> bool:
        """Whether it has an escrow record: it must not leave, or its length or dates would be known to nobody."""
        stays = value_of(self.template, ck.CKA_EXTRACTABLE) != b"\1"
        return stays or self.mechanism == ck.CKM_RSA_PKCS_OAEP or is_dated(self.template)


def require_wrapping(shown: Mapping[int, bytes]) -> None:
    """Raises Unreplicable for a key of a kind that no wrapping gives back. `shown`: attributes of the original."""
    object_class, key_type = number(shown.get(ck.CKA_CLASS)) or 0, number(shown.get(ck.CKA_KEY_TYPE)) or 0
    if object_class != ck.CKO_SECRET_KEY and wrapping_for(object_class, key_type) is None:
        raise Unreplicable("no wrapping gives back exactly such a key")


def wrap(
    group: GroupRuntime,
    connection: Connection,
    session: int,
    original: int,
    shown: Mapping[int, bytes],
    template: Template,
    proof: Proof | None,
    deadline: float,
) -> Wrapped:
    """Wrap the original (real handle, with the attributes `shown`) for the object that `template` makes. A secret key
    whose length the module does not tell needs a `proof`, to find out which wrapping keeps it. Raises Unreplicable,
    MemberLost, SessionRefused, SearchFailed."""
    object_class, key_type = number(shown.get(ck.CKA_CLASS)) or 0, number(shown.get(ck.CKA_KEY_TYPE)) or 0
    if value_of(template, ck.CKA_WRAP_WITH_TRUSTED) == b"\1":
        raise Unreplicable("it may be wrapped by trusted keys only, and the domain keys are none")
    mechanism = wrapping_for(object_class, key_type, number(shown.get(ck.CKA_VALUE_LEN)) or None)
    if mechanism is not None:
        return _wrap_by(group, connection, session, mechanism, original, shown, template, deadline)
    if object_class != ck.CKO_SECRET_KEY or proof is None:
        raise Unreplicable("no wrapping gives back exactly such a key")
    failure = Unreplicable("no wrapping gives back exactly such a key")
    for mechanism in (ck.CKM_AES_KEY_WRAP, ck.CKM_RSA_PKCS_OAEP):
        try:
            wrapped = _wrap_by(group, connection, session, mechanism, original, shown, template, deadline)
            if gives_back(group, connection, session, wrapped, proof, deadline):
                return wrapped
        except Unreplicable as reason:
            failure = reason
    raise failure


def _wrap_by(
    group: GroupRuntime,
    connection: Connection,
    session: int,
    mechanism: int,
    original: int,
    shown: Mapping[int, bytes],
    template: Template,
    deadline: float,
) -> Wrapped:
    domain = domain_for(template)
    if mechanism == ck.CKM_RSA_PKCS_OAEP:
        domain = rsa_of(domain)
    handles = domain_handles(group, connection, domain, deadline)
    if handles is None:
        raise Unreplicable("the group has no RSA domain key for a secret of such a length")
    how = wrapping_mechanism(mechanism)
    rv, results = connection.call("C_WrapKey", deadline, session, how, handles.wrapping, original, Out(_BLOB_ROOM))
    if not well(rv, "C_WrapKey"):
        if not connection.alive(deadline):
            raise MemberLost(f"C_WrapKey answered {rv_name(rv)} and the probe failed")
        raise Unreplicable(f"C_WrapKey answered {rv_name(rv)}", is_without_reason(rv))
    blob: bytes = results[4][1]
    length = number(shown.get(ck.CKA_VALUE_LEN)) or None
    if length is None and mechanism == ck.CKM_AES_KEY_WRAP:
        length = len(blob) - AES_WRAP_OVERHEAD
    return Wrapped(domain, mechanism, blob, template, shown, length)


AES_WRAP_OVERHEAD = 8
"""Bytes that CKM_AES_KEY_WRAP puts in front of a key's value."""


def publish(
    group: GroupRuntime, wrapped: Wrapped, proof: Proof, identity: Identity, placed: Placed
) -> list[tuple[Connection, int]]:
    """Put the key on every member that is in: (connection, real handle) each. Raises Refusal, Unreplicable,
    NobodyLeft; what was made is in `placed`, and is the caller's to take back."""
    direct = _proves_itself(wrapped.template, proof)
    for_ever = value_of(wrapped.template, ck.CKA_DESTROYABLE) == b"\0"
    if not direct or for_ever:
        # What cannot be proved as it is, or could not be taken back, is tried as a session object everywhere first.
        on_each(group, lambda index, connection: _try(group, index, connection, wrapped, proof, for_ever))
    if wrapped.recorded:
        record = record_of(group, wrapped, identity)
        write_records(group, record, identity, placed)
    held, promised = proof if direct else None, values_of(wrapped.template)
    return on_each(group, lambda index, connection: _place(group, index, connection, wrapped, held, placed, promised))


def publish_on(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    wrapped: Wrapped,
    proof: Proof,
    placed: Placed,
    promised: Mapping[int, bytes],
) -> int:
    """Put the key on one member, which need not be in yet, with all the protections `promised`: its real handle. Raises
    as `publish` does, and MemberLost."""
    direct = _proves_itself(wrapped.template, proof)
    for_ever = value_of(wrapped.template, ck.CKA_DESTROYABLE) == b"\0"
    # Whoever is killed before the object itself is proved leaves one of which nothing could be told: but for a secret
    # key, which then tells no check value, it is tried first.
    if not direct or for_ever or not isinstance(proof, CheckValue):
        _try(group, index, connection, wrapped, proof, for_ever)
    return _place(group, index, connection, wrapped, proof if direct else None, placed, promised)


def session_copy(
    group: GroupRuntime, connection: Connection, session: int, wrapped: Wrapped, needs: int, deadline: float
) -> tuple[int, int]:
    """A copy on `session` that has the usage flag `needs`, for a proof: (CK_RV, real handle). Raises MemberLost,
    SessionRefused."""
    return unwrap(group, connection, session, wrapped, _provable(wrapped.template, needs), deadline)


def _proves_itself(template: Template, proof: Proof) -> bool:
    """Whether the published object itself can be put to the proof."""
    if proof.needs is None:
        return value_of(template, ck.CKA_MODIFIABLE) != b"\0"
    if value_of(template, ck.CKA_ALWAYS_AUTHENTICATE) == b"\1" or value_of(template, proof.needs) != b"\1":
        return False
    allowed = value_of(template, ck.CKA_ALLOWED_MECHANISMS)
    return not allowed or proof.mechanism in (number(allowed[at : at + 8]) for at in range(0, len(allowed), 8))


_HINDERS_PROOF = (
    ck.CKA_TOKEN,
    ck.CKA_ALWAYS_AUTHENTICATE,
    ck.CKA_ALLOWED_MECHANISMS,
    ck.CKA_START_DATE,
    ck.CKA_END_DATE,
    ck.CKA_DESTROYABLE,
    ck.CKA_COPYABLE,
    ck.CKA_MODIFIABLE,
)


def prove_copy(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    session: int,
    wrapped: Wrapped,
    proof: Proof,
    deadline: float,
) -> int:
    """The CK_RV of unwrapping a session copy with all that its proof needs, on `session`. Raises Unreplicable where it
    is not the key, MemberLost, SearchFailed, SessionRefused."""
    rv, copy = unwrap(group, connection, session, wrapped, _for_proof(wrapped.template, proof), deadline)
    if rv == ck.CKR_OK:
        _expect_proved(group, index, connection, session, copy, proof, deadline)
    return rv


def _for_proof(template: Template, proof: Proof) -> Template:
    """The template of a session copy that can be put to the proof."""
    return _provable(template, proof.needs)


def _provable(template: Template, needs: int | None) -> Template:
    return (
        Attribute(ck.CKA_TOKEN, b"\0"),
        *(
            Attribute(each.type, b"\1") if each.type == needs else each
            for each in template
            if each.type not in _HINDERS_PROOF
        ),
    )


def gives_back(
    group: GroupRuntime, connection: Connection, session: int, wrapped: Wrapped, proof: Proof, deadline: float
) -> bool:
    """Whether unwrapping gives the very key again, tried on the original's own session. Raises Unreplicable where the
    module fails at it without a reason, MemberLost, SearchFailed, SessionRefused."""
    rv, copy = unwrap(group, connection, session, wrapped, _for_proof(wrapped.template, proof), deadline)
    if is_without_reason(rv):
        raise Unreplicable(f"C_UnwrapKey answered {rv_name(rv)}", is_without_reason(rv))
    return rv == ck.CKR_OK and proof.holds(connection, session, copy, deadline)


def _expect_proved(
    group: GroupRuntime, index: int, connection: Connection, session: int, copy: int, proof: Proof, deadline: float
) -> None:
    """Raises Unreplicable where the copy is not the key, MemberLost, SearchFailed."""
    what, doubtful = f"the copy on member {group.name(index)} is not proved to be the same key", False
    try:
        if proof.holds(connection, session, copy, deadline):
            return
    except SearchFailed as failure:
        if not is_without_reason(failure.rv) or not connection.alive(deadline):
            raise
        what, doubtful = f"{what}: {failure}", True
    raise Unreplicable(what, doubtful)


def _try(group: GroupRuntime, index: int, connection: Connection, wrapped: Wrapped, proof: Proof, whole: bool) -> None:
    """A session copy on this member, proved; with `whole` also one of the template as it is. Raises Refusal,
    Unreplicable, MemberLost."""

    def attempt(deadline: float) -> tuple[int, None]:
        session = connection.open_session(deadline)
        try:
            if whole:
                trial = tuple(each for each in wrapped.template if each.type != ck.CKA_TOKEN)
                trial = (Attribute(ck.CKA_TOKEN, b"\0"), *trial)
                rv, _ = unwrap(group, connection, session, wrapped, trial, deadline)
                if rv != ck.CKR_OK:
                    return rv, None
            return prove_copy(group, index, connection, session, wrapped, proof, deadline), None
        finally:
            connection.discard(session, deadline)

    rv, _ = step(group, index, connection, "C_UnwrapKey", attempt)
    _expect(group, index, rv)


def _place(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    wrapped: Wrapped,
    proof: Proof | None,
    placed: Placed,
    promised: Mapping[int, bytes],
) -> int:
    """The token object on one member, proved where there is a proof that it can be put to, and no weaker than it was
    promised to be: its real handle."""

    find = made_with(wrapped.template, proof)
    tried = False

    def attempt(deadline: float) -> tuple[int, int]:
        nonlocal tried
        session = connection.open_session(deadline)
        try:
            if tried:  # made by a first try whose proof met a lost session or login
                placed.take_back_last(connection, session, deadline)
                tried = False
            rv, real = unwrap(group, connection, session, wrapped, wrapped.template, deadline)
            if rv != ck.CKR_OK:
                return rv, 0
            placed.add(index, connection, real, find)
            tried = True
            if proof is not None:
                _expect_proved(group, index, connection, session, real, proof, deadline)
            expect_protected(group, index, connection, session, real, promised, deadline)
            return rv, real
        finally:
            connection.discard(session, deadline)

    rv, real = step(group, index, connection, "C_UnwrapKey", attempt)
    _expect(group, index, rv)
    assert real is not None
    return real


def expect_protected(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    session: int,
    real: int,
    promised: Mapping[int, bytes],
    deadline: float,
) -> None:
    """That a copy (real handle) has all these protections. Raises Unreplicable, MemberLost, SearchFailed."""
    lacking = weaknesses(connection, session, real, promised, deadline)
    if lacking:
        raise Unreplicable(f"the copy on member {group.name(index)} lacks {type_names(lacking)}")


def _expect(group: GroupRuntime, index: int, rv: int) -> None:
    if rv != ck.CKR_OK:
        raise refused(rv, f"member {group.name(index)} refused C_UnwrapKey")


def unwrap(
    group: GroupRuntime,
    connection: Connection,
    session: int,
    wrapped: Wrapped,
    template: Template,
    deadline: float,
) -> tuple[int, int]:
    """C_UnwrapKey of the blob: (CK_RV, real handle). Raises MemberLost, SessionRefused."""
    handles = domain_handles(group, connection, wrapped.domain, deadline)
    if handles is None:
        raise MemberLost(f"not a member any more: its {wrapped.domain.value} domain key is missing")
    how = wrapping_mechanism(wrapped.mechanism)
    return make(connection, "C_UnwrapKey", deadline, session, how, handles.unwrapping, wrapped.blob, template, None)


def record_of(group: GroupRuntime, wrapped: Wrapped, identity: Identity) -> EscrowRecord:
    """The escrow record of a wrapped key."""
    return EscrowRecord(
        group.settings.id,
        wrapped.domain,
        wrapped.mechanism,
        wrapped.blob,
        wrapped.template,
        fingerprint_of(identity),
        wrapped.shown.get(ck.CKA_CHECK_VALUE, b""),
        wrapped.value_length,
    )


def write_records(group: GroupRuntime, record: EscrowRecord, identity: Identity, placed: Placed) -> None:
    """Write a record on every member that is in. Raises Refusal, NobodyLeft."""
    find = record_like(record, identity)

    def work(index: int, connection: Connection) -> None:
        rv, real = step(
            group,
            index,
            connection,
            "C_CreateObject",
            lambda deadline: escrow.write(connection, record, identity, deadline),
        )
        if rv != ck.CKR_OK or real is None:
            raise refused(rv, f"member {group.name(index)} refused the escrow record")
        placed.add(index, connection, real, find)

    on_each(group, work)
