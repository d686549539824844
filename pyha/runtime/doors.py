"""The doors of the domain keys: each way in which a holder of the PIN could undo their protection on a token, tried.

Used by the `pyha` command only, never inside an application. What an open door let happen is undone at once, as far as
the token allows; trial keys are session objects.

Sources: SEMANTICS.md section 5 (domain keys); REPLICATION.md (MODIFIABLE, COPYABLE, unwrap templates).
"""

from enum import StrEnum

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Attribute, Mechanism, Out, Template
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.domain import AES_KEYS, OAEP, DomainKey, wrapping_mechanism
from pyha.ha.identity import flag, ulong
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.housekeeping import SearchFailed, boolean, make, read_attributes
from pyha.runtime.member import Connection, MemberLost, SessionRefused


class DoorState(StrEnum):
    """What a try has shown. `UNTRIED`: nothing, because the token does not even make the trial key, or fails in a way
    that says nothing of the door."""

    SHUT = "shut"
    OPEN = "open"
    UNTRIED = "not tried"


class Way(StrEnum):
    """A way in; the value is the predicate of a sentence about the domain key."""

    SET_DECRYPT = "can be given CKA_DECRYPT"
    SET_EXTRACTABLE = "can be made extractable"
    COPY_DECRYPT = "can be copied with CKA_DECRYPT"
    COPY_EXTRACTABLE = "can be copied as extractable"
    WRAP = "can be wrapped out"
    DECRYPT = "can decrypt"
    UNWRAP = "unwraps keys as extractable"


@dataclass(frozen=True, slots=True)
class Door:
    """One way in to one domain key, after it was tried."""

    key: DomainKey
    way: Way
    state: DoorState

    def __str__(self) -> str:
        unknown = "it cannot be found out whether " if self.state is DoorState.UNTRIED else ""
        return f"{unknown}the {self.key.value} domain key {self.way.value}"


_SET = ((Way.SET_DECRYPT, ck.CKA_DECRYPT), (Way.SET_EXTRACTABLE, ck.CKA_EXTRACTABLE))
_COPY = ((Way.COPY_DECRYPT, ck.CKA_DECRYPT), (Way.COPY_EXTRACTABLE, ck.CKA_EXTRACTABLE))
_UNSEALING = (DomainKey.SEALED, DomainKey.SEALED_RSA)


def try_doors(candidate: Candidate) -> tuple[Door, ...]:
    """Every door of every domain key in the candidate's `connection.domain`. Raises NotServable."""
    deadline = candidate.deadline()
    connection = candidate.connection
    found: list[Door] = []
    try:
        session = connection.open_session(deadline)
        try:
            for key in connection.domain:
                found += _of_key(connection, session, key, deadline)
        finally:
            connection.discard(session, deadline)
    except (MemberLost, SessionRefused, SearchFailed) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    return tuple(found)


def _of_key(connection: Connection, session: int, key: DomainKey, deadline: float) -> list[Door]:
    real = connection.domain[key].unwrapping
    found = []
    for way, attribute in _SET:
        found.append(Door(key, way, _set(connection, session, real, attribute, deadline)))
    for way, attribute in _COPY:
        copy = (boolean(ck.CKA_TOKEN, False), boolean(attribute, True))
        rv, _ = make(connection, "C_CopyObject", deadline, session, real, copy, None)
        found.append(Door(key, way, _answered(rv)))
    other = connection.domain[DomainKey.OPEN if key is DomainKey.SEALED else DomainKey.SEALED].wrapping
    padded = Mechanism(ck.CKM_AES_KEY_WRAP_PAD)
    rv, _ = connection.call("C_WrapKey", deadline, session, padded, other, real, Out(8192))
    found.append(Door(key, Way.WRAP, _answered(rv)))
    by_hand = Mechanism(ck.CKM_AES_ECB) if key in AES_KEYS else OAEP
    rv, _ = connection.call("C_DecryptInit", deadline, session, by_hand, real)
    if rv == ck.CKR_OK:
        connection.call("C_Decrypt", deadline, session, bytes(16), Out(1024))
    found.append(Door(key, Way.DECRYPT, _answered(rv)))
    if key in _UNSEALING:
        found.append(Door(key, Way.UNWRAP, _unseals(connection, session, key, deadline)))
    return found


def _answered(rv: int) -> DoorState:
    """What the answer to a try says: a door is shut where the token refuses, not where the session, the login or the
    handle is gone, or the token fails without a reason. Raises MemberLost."""
    if rv == ck.CKR_OK:
        return DoorState.OPEN
    judgement = verdict(Route.CREATE, rv)
    if judgement is Verdict.MEMBER_LOST:
        raise MemberLost(f"a door of its domain keys answered {rv_name(rv)}")
    return DoorState.SHUT if judgement is Verdict.ANSWER else DoorState.UNTRIED


def _set(connection: Connection, session: int, real: int, attribute: int, deadline: float) -> DoorState:
    rv, _ = connection.call("C_SetAttributeValue", deadline, session, real, (boolean(attribute, True),))
    if rv == ck.CKR_OK:
        connection.call("C_SetAttributeValue", deadline, session, real, (boolean(attribute, False),))
    return _answered(rv)


def _unseals(connection: Connection, session: int, key: DomainKey, deadline: float) -> DoorState:
    """Whether a key that was wrapped under a sealed domain key, as records hold them, comes back extractable."""
    handles = connection.domain[key]
    mechanism = wrapping_mechanism(ck.CKM_AES_KEY_WRAP if key in AES_KEYS else ck.CKM_RSA_PKCS_OAEP)
    template = (
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_EXTRACTABLE, True),
        boolean(ck.CKA_SENSITIVE, True),
        Attribute(ck.CKA_VALUE_LEN, ulong(32)),
    )
    rv, trial = make(connection, "C_GenerateKey", deadline, session, Mechanism(ck.CKM_AES_KEY_GEN), template, None)
    if rv != ck.CKR_OK:
        return DoorState.UNTRIED
    rv, results = connection.call("C_WrapKey", deadline, session, mechanism, handles.wrapping, trial, Out(1024))
    if rv != ck.CKR_OK:
        return DoorState.UNTRIED
    loose: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_AES)),
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_SENSITIVE, False),
        boolean(ck.CKA_EXTRACTABLE, True),
    )
    wrapped = results[4][1]
    rv, copy = make(connection, "C_UnwrapKey", deadline, session, mechanism, handles.unwrapping, wrapped, loose, None)
    if rv != ck.CKR_OK:
        return _answered(rv)
    # A module may take the template and let the domain key's own unwrap template win: what came out counts.
    shown = read_attributes(connection, session, copy, (ck.CKA_EXTRACTABLE, ck.CKA_SENSITIVE), deadline)
    guarded = flag(shown.get(ck.CKA_SENSITIVE)) and not flag(shown.get(ck.CKA_EXTRACTABLE))
    return DoorState.SHUT if guarded else DoorState.OPEN
