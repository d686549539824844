"""Publishing a key: from its extractable session original on one member to the same token object on every member.

Order (SEMANTICS.md section 5): wrap, write the escrow record everywhere where the key must not leave, unwrap
everywhere - the first member included -, prove, and only then is it the application's. Whatever fails before is taken
back; a member that is lost on the way is resynchronised before it serves again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import wrapping_for
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Out, Template
from pyha.ha.domain import DomainKey, rsa_of, wrapping_mechanism
from pyha.ha.identity import Identity, number
from pyha.ha.records import EscrowRecord, fingerprint_of
from pyha.ha.replication import domain_for, published_template, value_of
from pyha.runtime import escrow
from pyha.runtime.admission import domain_handles
from pyha.runtime.binding import read_identity
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import destroy, housekeeping, make
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.proving import provable, prove_private, prove_secret

_BLOB_ROOM = 16384


class Unreplicable(Exception):
    """The key cannot be on every member: one phrase says why."""


class Refusal(Exception):
    """A member refused a step with a CK_RV that the application gets. Everything has been taken back."""

    def __init__(self, rv: int, what: str) -> None:
        super().__init__(f"{what}: {rv_name(rv)}")
        self.rv = rv


@dataclass(slots=True)
class Wrapped:
    """A key on its way: `template`: of the object to be. `original`: attributes read from the original. `public`:
    attributes of the pair's public key, empty for secret keys and where it is not known."""

    domain: DomainKey
    mechanism: int
    blob: bytes
    template: Template
    original: Mapping[int, bytes]
    public: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def extractable(self) -> bool:
        return value_of(self.template, ck.CKA_EXTRACTABLE) == b"\1"

    @property
    def secret(self) -> bool:
        return number(self.original[ck.CKA_CLASS]) == ck.CKO_SECRET_KEY

    @property
    def key_type(self) -> int:
        return number(self.original[ck.CKA_KEY_TYPE]) or 0

    @property
    def value_length(self) -> int | None:
        return number(self.original.get(ck.CKA_VALUE_LEN)) if self.secret else None


@dataclass(slots=True)
class Placed:
    """What has been made so far, so that it can be taken back: (member index, connection, real handle)."""

    objects: list[tuple[int, Connection, int]] = field(default_factory=list)

    def take_back(self, group: GroupRuntime) -> None:
        """Destroy all of it. A member that is lost meanwhile is cleared at its resync."""
        for index, connection, real in reversed(self.objects):
            deadline = group.deadline()
            try:
                with housekeeping(connection, deadline) as session:
                    destroy(connection, session, real, deadline)
            except (MemberLost, SessionRefused) as loss:
                group.lost(index, connection.generation, str(loss))
        self.objects.clear()


def wrap(
    group: GroupRuntime,
    connection: Connection,
    session: int,
    original: int,
    shown: Mapping[int, bytes],
    asked: Template,
    public: Mapping[int, bytes],
    deadline: float,
    token: bool = True,
) -> Wrapped:
    """Wrap the original (real handle) for the object that `asked` asks for. Raises Unreplicable, MemberLost."""
    template = published_template(asked, shown, token)
    object_class, key_type = number(shown.get(ck.CKA_CLASS)), number(shown.get(ck.CKA_KEY_TYPE))
    assert object_class is not None
    assert key_type is not None
    length = number(shown.get(ck.CKA_VALUE_LEN))
    mechanism = wrapping_for(object_class, key_type, length)
    if mechanism is None:
        raise Unreplicable("no wrapping gives back exactly such a key")
    if value_of(template, ck.CKA_WRAP_WITH_TRUSTED) == b"\1":
        raise Unreplicable("it may be wrapped by trusted keys only, and the domain keys are none")
    if object_class == ck.CKO_SECRET_KEY and not shown.get(ck.CKA_CHECK_VALUE):
        raise Unreplicable("the module tells no check value, so that a copy cannot be proved")
    if object_class == ck.CKO_PRIVATE_KEY and (not public or not provable(key_type)):
        raise Unreplicable("a copy of such a private key cannot be proved")
    domain = domain_for(template)
    if mechanism == ck.CKM_RSA_PKCS_OAEP:
        domain = rsa_of(domain)
    handles = domain_handles(group, connection, domain, deadline)
    if handles is None:
        raise Unreplicable("the group has no RSA domain key for a secret of such a length")
    rv, results = connection.call(
        "C_WrapKey", deadline, session, wrapping_mechanism(mechanism), handles.wrapping, original, Out(_BLOB_ROOM)
    )
    if rv != ck.CKR_OK:
        raise Unreplicable(f"C_WrapKey answered {rv_name(rv)}")
    return Wrapped(domain, mechanism, results[4][1], template, shown, public)


def publish(group: GroupRuntime, wrapped: Wrapped, identity: Identity, placed: Placed) -> list[tuple[Connection, int]]:
    """Put the key on every member that is in: (connection, real handle) each. Raises Refusal, Unreplicable,
    NobodyLeft; what was made is in `placed`, and is the caller's to take back."""
    if not wrapped.extractable:
        record = record_of(group, wrapped, identity)
        for index, connection in group.present():
            write_record(group, index, connection, record, identity, placed)
    made: list[tuple[Connection, int]] = []
    for index, connection in group.present():
        try:
            real = _unwrap_and_prove(group, index, connection, wrapped, placed)
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        made.append((connection, real))
    if not made:
        raise group.nobody_left()
    return made


def record_of(group: GroupRuntime, wrapped: Wrapped, identity: Identity) -> EscrowRecord:
    """The escrow record of a wrapped key."""
    return EscrowRecord(
        group.settings.id,
        wrapped.domain,
        wrapped.mechanism,
        wrapped.blob,
        wrapped.template,
        fingerprint_of(identity),
        wrapped.original.get(ck.CKA_CHECK_VALUE, b""),
        wrapped.value_length,
    )


def write_record(
    group: GroupRuntime, index: int, connection: Connection, record: EscrowRecord, identity: Identity, placed: Placed
) -> None:
    """Write a record on one member; a lost one is out. Raises Refusal."""
    try:
        rv, real = escrow.write(connection, record, identity, group.deadline())
    except SessionRefused as refused:
        raise Refusal(refused.rv, f"member {group.name(index)} refused a session") from None
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
        return
    if rv != ck.CKR_OK:
        raise Refusal(rv, f"member {group.name(index)} refused the escrow record")
    placed.objects.append((index, connection, real))


def _unwrap_and_prove(group: GroupRuntime, index: int, connection: Connection, wrapped: Wrapped, placed: Placed) -> int:
    deadline = group.deadline(slow=True)
    try:
        session = connection.open_session(deadline)
    except SessionRefused as refused:
        raise Refusal(refused.rv, f"member {group.name(index)} refused a session") from None
    try:
        real = unwrap(group, index, connection, session, wrapped, wrapped.template, deadline)
        placed.objects.append((index, connection, real))
        if not prove(group, index, connection, session, real, wrapped, deadline):
            raise Unreplicable(f"the copy on member {group.name(index)} is not proved to be the same key")
        return real
    finally:
        connection.discard(session, deadline)


def unwrap(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    session: int,
    wrapped: Wrapped,
    template: Template,
    deadline: float,
) -> int:
    """C_UnwrapKey of the blob: the real handle. Raises Refusal, MemberLost."""
    handles = domain_handles(group, connection, wrapped.domain, deadline)
    if handles is None:
        raise MemberLost(f"not a member any more: its {wrapped.domain.value} domain key is missing")
    rv, real = make(
        connection,
        "C_UnwrapKey",
        deadline,
        session,
        wrapping_mechanism(wrapped.mechanism),
        handles.unwrapping,
        wrapped.blob,
        template,
        None,
    )
    if rv != ck.CKR_OK:
        if not connection.alive(deadline):
            raise MemberLost(f"C_UnwrapKey answered {rv_name(rv)} and the probe failed")
        raise Refusal(rv, f"member {group.name(index)} refused the copy of a key")
    return real


def prove(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    session: int,
    copy: int,
    wrapped: Wrapped,
    deadline: float,
) -> bool:
    """Whether the copy is the key. Session objects that it takes live on `session`. Raises MemberLost, Refusal."""
    if wrapped.secret:
        check_value = wrapped.original.get(ck.CKA_CHECK_VALUE, b"")
        return prove_secret(connection, session, copy, check_value, deadline)
    signing = tuple(
        Attribute(each.type, b"\1") if each.type == ck.CKA_SIGN else each
        for each in wrapped.template
        if each.type not in (ck.CKA_TOKEN, ck.CKA_ALWAYS_AUTHENTICATE, ck.CKA_ALLOWED_MECHANISMS)
    )
    signer = unwrap(group, index, connection, session, wrapped, (Attribute(ck.CKA_TOKEN, b"\0"), *signing), deadline)
    return prove_private(connection, session, signer, wrapped.public, wrapped.key_type, deadline)


def identity_on(connection: Connection, real: int, deadline: float) -> Identity | None:
    """The identity of an object that was just made. Raises MemberLost, SessionRefused."""
    with housekeeping(connection, deadline) as session:
        return read_identity(connection, session, real, deadline)
