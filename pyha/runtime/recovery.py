"""Bringing a lost member back: connect, log in, admit, compare, and only then serve.

One attempt on one member; when attempts are made is decided by `pyha.ha.recovery`, by whom by `monitor` and the
provider. While the comparison runs no token object of the group is made, changed or destroyed by any process of this
host.

Source: SEMANTICS.md section 4 (recovery).
"""

from collections.abc import Collection

from pyha.cryptoki import constants as ck
from pyha.ha.domain import APPLICATION
from pyha.ha.group import Cause, Occasion
from pyha.ha.identity import READ, Identity, with_twins
from pyha.ha.inventory import compare
from pyha.ha.tombstones import is_tombstone_label
from pyha.runtime import log, tombstones
from pyha.runtime.admission import NotAdmitted, locate
from pyha.runtime.binding import value_hash
from pyha.runtime.gate import GateTimeout
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.housekeeping import SearchFailed, housekeeping, read_attributes, search
from pyha.runtime.member import Connection, LoginRefused, MemberLost, SessionRefused
from pyha.runtime.pinsource import PinUnavailable


class NotYet(Exception):
    """The member is reachable and may not serve: one phrase, and the cause that decides when it is tried again."""

    def __init__(self, reason: str, cause: Cause) -> None:
        super().__init__(reason)
        self.cause = cause


def due(group: GroupRuntime, occasion: Occasion) -> tuple[int, ...]:
    """The members that are to be tried now."""
    return group.value.due(group.recovery, occasion, group.clock())


def asked(group: GroupRuntime, indices: Collection[int]) -> None:
    """The operator asks for an attempt now, on these members, as far as they are out."""
    for index in due(group, Occasion.OPERATOR):
        if index in indices:
            recover(group, index)


def on_call(group: GroupRuntime) -> None:
    """The seed's rule, inside the application's own call: what is due is tried before the call goes on."""
    for index in due(group, Occasion.CALL):
        recover(group, index)


def after_login(group: GroupRuntime) -> None:
    """The application has logged in: members that waited for that are tried, once."""
    for index in due(group, Occasion.LOGIN):
        recover(group, index)


def recover(group: GroupRuntime, index: int) -> bool:
    """One attempt to bring a failed member back. False where it failed, or where somebody else makes one. Raises
    nothing."""
    generation = group.begin_recovery(index)
    if generation is None:
        return False
    label = f'group "{group.settings.label}": member {group.name(index)}'
    log.log("notice", f"{label}: recovery attempt {group.value.members[index].attempts.count + 1}")
    connection = group.new_connection(index, generation)
    reason, cause = "", Cause.LOST
    try:
        with group.arriving(connection):
            connection.connect(group.deadline())
            group.learn_from(index, connection)
            unsynchronised = _admit(group, index, connection)
    except NotYet as refusal:
        reason, cause = str(refusal), refusal.cause
    except (MemberLost, SessionRefused, SearchFailed) as loss:
        reason = str(loss)
    except (NobodyLeft, MemoryError) as trouble:
        # The last member went while it was compared with, or this process has no memory: the next attempt sees.
        reason = str(trouble) or "no memory"
    if reason:
        connection.close()
        group.recovery_failed(index, generation, reason, cause)
        return False
    if unsynchronised:
        log.log("warning", f"{label} serves unsynchronised: there is no other member to compare it with")
    else:
        log.log("notice", f"{label} returned")
    return True


def _admit(group: GroupRuntime, index: int, connection: Connection) -> bool:
    """Let the member serve; whether it does so unsynchronised. Raises NotYet, MemberLost, SessionRefused,
    SearchFailed."""
    deadline = group.deadline()
    if group.raw:
        group.join(index, connection, unsynchronised=False)
        return False
    alone = not group.value.serving()
    with group.login_lock:
        if group.sessions:
            connection.anchor(deadline)
        if group.user is not None:
            _log_in(group, index, connection, deadline)
        elif not alone:
            raise NotYet("awaiting login: its objects can be compared only then", Cause.AWAITING_LOGIN)
        try:
            if group.user == ck.CKU_USER:
                locate(group, connection, deadline)
        except NotAdmitted as refusal:
            raise NotYet(f"not a member any more: {refusal}", Cause.NOT_A_MEMBER) from None
        try:
            with group.changes.alone(deadline) as here:
                alone = not group.value.serving()
                if not alone and group.user == ck.CKU_USER:
                    _compare(group, index, connection, deadline)
                    if here.disturbed:
                        raise NotYet("objects were made or changed while it was compared", Cause.LOST)
                group.join(index, connection, unsynchronised=alone)
        except GateTimeout:
            raise NotYet("objects are being made or changed, or another process resynchronises", Cause.LOST) from None
    return alone


def _log_in(group: GroupRuntime, index: int, connection: Connection, deadline: float) -> None:
    try:
        group.log_in_returning(index, connection, deadline)
    except (LoginRefused, PinUnavailable) as refusal:
        raise NotYet(str(refusal), Cause.LOGIN_REFUSED) from None


def _compare(group: GroupRuntime, returning: int, connection: Connection, deadline: float) -> None:
    """Raises NotYet where the member's objects differ from those of the primary, or those cannot be told now;
    MemberLost, SessionRefused, SearchFailed where the member's own cannot."""
    index, reference = group.present()[0]
    try:
        expected = identities(reference, deadline)
        missed = [tombstone for _, tombstone in tombstones.find(reference, group.settings.id, deadline)]
    except MemberLost as loss:
        group.lost(index, reference.generation, str(loss))
        raise NotYet("the member to compare it with was lost", Cause.LOST) from None
    except (SessionRefused, SearchFailed) as failure:
        raise NotYet(f"member {group.name(index)} cannot be compared with: {failure}", Cause.LOST) from None
    name = group.settings.members[returning].recorded_as
    if any(tombstone.now is not None and name in tombstone.pending for tombstone in missed):
        raise NotYet("it needs a resync: attributes were set while it was out", Cause.DIFFERS)
    # A deletion that it missed shows by itself: the object is there, or it is not.
    difference = compare(_without_tombstones(expected), _without_tombstones(identities(connection, deadline)))
    if difference:
        raise NotYet(
            f"its objects differ, it needs a resync: {difference.missing} missing, {difference.surplus} too many",
            Cause.DIFFERS,
        )


def _without_tombstones(held: list[Identity]) -> list[Identity]:
    return [
        each
        for each in held
        if each.get(ck.CKA_APPLICATION) != APPLICATION or not is_tombstone_label(each.get(ck.CKA_LABEL) or b"")
    ]


def identities(connection: Connection, deadline: float) -> list[Identity]:
    """What every object of a logged-in member is, the group's own among them. Raises MemberLost, SessionRefused,
    SearchFailed."""
    shown = []
    with housekeeping(connection, deadline, reads=True) as session:
        for real in search(connection, session, (), deadline):
            attributes = read_attributes(connection, session, real, READ, deadline)
            if attributes:
                shown.append((attributes, value_hash(connection, session, real, attributes, deadline)))
    return with_twins(shown)
