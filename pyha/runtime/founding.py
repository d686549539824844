"""Making a group: looking at the tokens that are to be members, and trying what their domain keys could be misused for.

Used by the `pyha` command only, never inside an application. Works on connections of the command's own.

Sources: SEMANTICS.md section 5 (domain keys; group creation tries the doors); REPLICATION.md.
"""

from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import (
    APPLICATION,
    is_domain_label,
    record_search,
)
from pyha.ha.identity import ulong
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.doors import DoorState, try_doors
from pyha.runtime.housekeeping import (
    SearchFailed,
    boolean,
    create,
    destroy,
    housekeeping,
    read_attributes,
    search,
)
from pyha.runtime.member import LoginRefused, MemberLost, SessionRefused

_TRIAL = b"trial"
"""CKA_LABEL of the record by which a token is tried."""


class PinRefused(NotServable):
    """The token did not take the PIN, or warns that few tries are left: the PIN is not to be tried elsewhere."""


def enter(candidate: Candidate, pin: object) -> None:
    """Connect and log in as user, one try, and none where the token warns. Raises NotServable, PinRefused."""
    connection = candidate.connection
    try:
        connection.connect(candidate.deadline())
        info = connection.token_info
        if info is None or not info.flags & ck.CKF_TOKEN_INITIALIZED:
            raise NotServable(f"{candidate.name}: the token is not initialised")
        if not info.flags & ck.CKF_USER_PIN_INITIALIZED:
            raise NotServable(f"{candidate.name}: the token has no user PIN yet")
        connection.login_again(ck.CKU_USER, pin, candidate.deadline())
    except LoginRefused as refusal:
        raise PinRefused(f"{candidate.name}: {refusal}") from None
    except MemberLost as loss:
        raise NotServable(f"{candidate.name}: {loss}") from None
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
            for object_class in (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY):
                keys = (Attribute(ck.CKA_CLASS, ulong(object_class)),)
                for real in search(candidate.connection, session, keys, deadline):
                    shown = read_attributes(candidate.connection, session, real, (ck.CKA_LABEL,), deadline)
                    label = shown.get(ck.CKA_LABEL, b"")
                    if is_domain_label(label):
                        named = label.decode(errors="replace")
                        raise NotServable(
                            f'{candidate.name}: the token is a member of a group already: it holds the "{named}" '
                            "(initialise it anew if that group is no more, or was never made)"
                        )
            records = search(candidate.connection, session, record_search(), deadline)
            if set(records) - set(search(candidate.connection, session, record_search(_TRIAL), deadline)):
                raise NotServable(f"{candidate.name}: the token holds records of a group already")
            return len(search(candidate.connection, session, (), deadline)) - len(records)
    except (MemberLost, SessionRefused, SearchFailed) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None


def open_doors(candidate: Candidate) -> tuple[str, ...]:
    """The ways by which a holder of the PIN could undo the domain keys' protection on this token, or that could not be
    tried, a phrase each; empty where all are shut. Raises NotServable."""
    return tuple(str(door) for door in try_doors(candidate) if door.state is not DoorState.SHUT)


def check_records(candidate: Candidate) -> None:
    """Find out that the token holds private data objects, which records are. Raises NotServable."""
    deadline = candidate.deadline()
    template: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_DATA)),
        boolean(ck.CKA_TOKEN, True),
        boolean(ck.CKA_PRIVATE, True),
        Attribute(ck.CKA_APPLICATION, APPLICATION),
        Attribute(ck.CKA_LABEL, _TRIAL),
        Attribute(ck.CKA_VALUE, bytes(4096)),
    )
    try:
        with housekeeping(candidate.connection, deadline) as session:
            for left in search(candidate.connection, session, record_search(_TRIAL), deadline):
                destroy(candidate.connection, session, left, deadline)  # by a command that was killed here
            rv, real = create(candidate.connection, session, template, deadline)
            if rv == ck.CKR_OK:
                destroy(candidate.connection, session, real, deadline)
    except (MemberLost, SessionRefused, SearchFailed) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    if rv != ck.CKR_OK:
        what = "the token cannot hold the group's records, which are private data objects"
        raise NotServable(f"{candidate.name}: {what}: {rv_name(rv)}")
