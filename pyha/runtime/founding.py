"""Making a group: looking at the tokens that are to be members, and putting the domain keys on them.

Used by the `pyha` command only, never inside an application. Works on connections of the command's own; what it makes
on tokens it takes back where a later step fails.

Sources: SEMANTICS.md section 5 (domain keys; group creation tries the doors); REPLICATION.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Mechanism, Out, Template
from pyha.ha.domain import APPLICATION, DomainKey, domain_id, domain_template, record_search
from pyha.ha.identity import ulong
from pyha.runtime.housekeeping import (
    SearchFailed,
    boolean,
    create,
    destroy,
    housekeeping,
    make,
    read_attributes,
    search,
)
from pyha.runtime.member import Connection, LoginRefused, MemberLost, SessionRefused


class NotServable(Exception):
    """A token cannot be a member: one sentence that names it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token on its way into a group. `seconds`: the deadline of each of our calls."""

    connection: Connection
    seconds: float

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.connection.name

    def deadline(self) -> float:
        """From now, monotonic seconds."""
        return self.connection.clock() + self.seconds


def enter(candidate: Candidate, pin: object) -> None:
    """Connect and log in as user, one try, and none where the token warns. Raises NotServable."""
    connection = candidate.connection
    try:
        connection.connect(candidate.deadline())
        info = connection.token_info
        if info is None or not info.flags & ck.CKF_TOKEN_INITIALIZED:
            raise NotServable(f"{candidate.name}: the token is not initialised")
        if not info.flags & ck.CKF_USER_PIN_INITIALIZED:
            raise NotServable(f"{candidate.name}: the token has no user PIN yet")
        connection.login_again(ck.CKU_USER, pin, candidate.deadline())
    except (MemberLost, LoginRefused) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    except SessionRefused as refused:
        raise NotServable(f"{candidate.name}: the token gives no session: {refused}") from None


def visible_serials(candidate: Candidate) -> list[str]:
    """The serials of every token that the candidate's module shows. Raises NotServable."""
    try:
        return [info.serial for info in candidate.connection.visible_tokens(candidate.deadline())]
    except MemberLost as loss:
        raise NotServable(f"{candidate.name}: {loss}") from None


def require_new(candidate: Candidate) -> int:
    """How many objects the token holds already. Raises NotServable for a token that is in some group."""
    deadline = candidate.deadline()
    try:
        with housekeeping(candidate.connection, deadline) as session:
            secrets = search(
                candidate.connection, session, (Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),), deadline
            )
            for real in secrets:
                shown = read_attributes(candidate.connection, session, real, (ck.CKA_LABEL,), deadline)
                if shown.get(ck.CKA_LABEL, b"").startswith(b"pyha domain key"):
                    raise NotServable(f"{candidate.name}: the token is a member of a group already")
            if search(candidate.connection, session, record_search(), deadline):
                raise NotServable(f"{candidate.name}: the token holds records of a group already")
            return len(search(candidate.connection, session, (), deadline))
    except (MemberLost, SessionRefused, SearchFailed) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None


def put_domain_keys(candidates: Sequence[Candidate], group_id: bytes, values: Mapping[DomainKey, bytearray]) -> None:
    """Make the domain keys (32 bytes each) on every token; on failure none of them has any. Raises NotServable."""
    made: list[tuple[Candidate, int]] = []
    try:
        for candidate in candidates:
            for key, value in values.items():
                made.append((candidate, _put(candidate, group_id, key, value)))
    except NotServable:
        for candidate, real in made:
            _remove(candidate, real)
        raise


def _put(candidate: Candidate, group_id: bytes, key: DomainKey, value: bytearray) -> int:
    template: Template = (*domain_template(group_id, key), Attribute(ck.CKA_VALUE, value))
    deadline = candidate.deadline()
    try:
        with housekeeping(candidate.connection, deadline) as session:
            rv, real = create(candidate.connection, session, template, deadline)
    except (MemberLost, SessionRefused) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    if rv != ck.CKR_OK:
        raise NotServable(f"{candidate.name}: the token does not take the {key.value} domain key: {rv_name(rv)}")
    candidate.connection.domain[key] = real
    return real


def _remove(candidate: Candidate, real: int) -> None:
    deadline = candidate.deadline()
    try:
        with housekeeping(candidate.connection, deadline) as session:
            destroy(candidate.connection, session, real, deadline)
    except (MemberLost, SessionRefused):
        pass


def remove_domain_keys(candidates: Sequence[Candidate]) -> None:
    """Take the domain keys back from every token that still answers."""
    for candidate in candidates:
        for real in candidate.connection.domain.values():
            _remove(candidate, real)
        candidate.connection.domain.clear()


def open_doors(candidate: Candidate) -> tuple[str, ...]:
    """The ways by which a holder of the PIN could undo the domain keys' protection on this token; empty where all are
    shut. Raises NotServable."""
    try:
        deadline = candidate.deadline()
        session = candidate.connection.open_session(deadline)
        try:
            return tuple(_doors(candidate.connection, session, deadline))
        finally:
            candidate.connection.discard(session, deadline)
    except (MemberLost, SessionRefused) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None


def _doors(connection: Connection, session: int, deadline: float) -> list[str]:
    found = []
    decrypt: Template = (boolean(ck.CKA_DECRYPT, True),)
    for key, real in connection.domain.items():
        if connection.call("C_SetAttributeValue", deadline, session, real, decrypt)[0] == ck.CKR_OK:
            found.append(f"the {key.value} domain key can be given CKA_DECRYPT")
        copy = (boolean(ck.CKA_TOKEN, False), *decrypt)
        if make(connection, "C_CopyObject", deadline, session, real, copy, None)[0] == ck.CKR_OK:
            found.append(f"the {key.value} domain key can be copied with CKA_DECRYPT")
        other = connection.domain[DomainKey.OPEN if key is DomainKey.SEALED else DomainKey.SEALED]
        if _wraps(connection, session, other, real, deadline):
            found.append(f"the {key.value} domain key can be wrapped out")
        ecb = Mechanism(ck.CKM_AES_ECB)
        if connection.call("C_DecryptInit", deadline, session, ecb, real)[0] == ck.CKR_OK:
            found.append(f"the {key.value} domain key can decrypt")
            connection.call("C_Decrypt", deadline, session, bytes(16), Out(32))
    if _unseals(connection, session, deadline):
        found.append("the sealed domain key unwraps keys as extractable")
    return found


def _wraps(connection: Connection, session: int, wrapping: int, key: int, deadline: float) -> bool:
    mechanism = Mechanism(ck.CKM_AES_KEY_WRAP)
    return connection.call("C_WrapKey", deadline, session, mechanism, wrapping, key, Out(256))[0] == ck.CKR_OK


def _unseals(connection: Connection, session: int, deadline: float) -> bool:
    """Whether a key that was wrapped under the sealed domain key comes back extractable."""
    sealed = connection.domain[DomainKey.SEALED]
    mechanism = Mechanism(ck.CKM_AES_KEY_WRAP)
    template = (
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_EXTRACTABLE, True),
        boolean(ck.CKA_SENSITIVE, True),
        Attribute(ck.CKA_VALUE_LEN, ulong(32)),
    )
    rv, key = make(connection, "C_GenerateKey", deadline, session, Mechanism(ck.CKM_AES_KEY_GEN), template, None)
    if rv != ck.CKR_OK:
        return False
    rv, results = connection.invoke(BY_NAME["C_WrapKey"], [session, mechanism, sealed, key, Out(256)], deadline)
    if rv != ck.CKR_OK:
        return False
    loose = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_AES)),
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_SENSITIVE, False),
        boolean(ck.CKA_EXTRACTABLE, True),
    )
    rv, _ = make(connection, "C_UnwrapKey", deadline, session, mechanism, sealed, results[4][1], loose, None)
    return rv == ck.CKR_OK


def check_records(candidate: Candidate) -> None:
    """Find out that the token holds private data objects, which records are. Raises NotServable."""
    deadline = candidate.deadline()
    template: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_DATA)),
        boolean(ck.CKA_TOKEN, True),
        boolean(ck.CKA_PRIVATE, True),
        Attribute(ck.CKA_APPLICATION, APPLICATION),
        Attribute(ck.CKA_LABEL, b"trial"),
        Attribute(ck.CKA_VALUE, bytes(4096)),
    )
    try:
        with housekeeping(candidate.connection, deadline) as session:
            rv, real = create(candidate.connection, session, template, deadline)
            if rv == ck.CKR_OK:
                destroy(candidate.connection, session, real, deadline)
    except (MemberLost, SessionRefused) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    if rv != ck.CKR_OK:
        raise NotServable(f"{candidate.name}: the token cannot hold the group's records: {rv_name(rv)}")


def check_values(connection: Connection, group_id: bytes, deadline: float) -> dict[DomainKey, bytes]:
    """The check value of each domain key that is on a logged-in token, b"" where it tells none. Raises MemberLost,
    SearchFailed, SessionRefused."""
    found = {}
    with housekeeping(connection, deadline) as session:
        for key in DomainKey:
            template = (
                Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
                Attribute(ck.CKA_ID, domain_id(group_id, key)),
            )
            for real in search(connection, session, template, deadline):
                shown = read_attributes(connection, session, real, (ck.CKA_CHECK_VALUE,), deadline)
                found[key] = shown.get(ck.CKA_CHECK_VALUE, b"")
    return found
