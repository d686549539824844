"""Bringing a lost member back: connect, log in, admit, resynchronise, and only then serve.

One attempt on one member; when attempts are made is decided by `pyha.ha.recovery`, by whom by `monitor` and the
provider. While a resync runs no token object of the group is made, changed or destroyed by any process of this host.
Locks: creations and changes are excluded before the login lock is taken, never while it is held.

Source: SEMANTICS.md sections 4 (recovery) and 5 (resync).
"""

from collections.abc import Callable, Collection

from pyha.cryptoki import constants as ck
from pyha.ha.group import Cause, Occasion
from pyha.ha.settings import Unreplicable
from pyha.ha.telling import conflicts_for_log
from pyha.runtime import log
from pyha.runtime.admission import NotAdmitted, locate
from pyha.runtime.afresh import Unreadable
from pyha.runtime.expecting import STRANGER
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.member import Connection, LoginRefused, MemberLost, SessionRefused
from pyha.runtime.pinsource import PinUnavailable
from pyha.runtime.resync import LostMeanwhile, Outcome, resynchronise
from pyha.runtime.turns import Occupied, alone, resync_member


class NotYet(Exception):
    """The member is reachable and may not serve: one phrase, and the cause that decides when it is tried again."""

    def __init__(self, reason: str, cause: Cause) -> None:
        super().__init__(reason)
        self.cause = cause


def due(group: GroupRuntime, occasion: Occasion) -> tuple[int, ...]:
    """The members that are to be tried now."""
    return group.value.due(group.recovery, occasion, group.clock())


def asked(group: GroupRuntime, indices: Collection[int]) -> None:
    """The operator asks for an attempt now, on these members, as far as they are out: whichever token they have now."""
    for index in indices:
        group.tokens.pop(index, None)
    for index in due(group, Occasion.OPERATOR):
        if index in indices:
            recover(group, index)


def on_call(group: GroupRuntime) -> None:
    """The seed's rule, inside the application's own call: what is due is tried before the call goes on."""
    for index in due(group, Occasion.CALL):
        recover(group, index, group.deadline(slow=True))


def after_login(group: GroupRuntime) -> None:
    """The application has logged in: members that waited for that are tried, once."""
    for index in due(group, Occasion.LOGIN):
        recover(group, index, group.deadline(slow=True))


def recover(group: GroupRuntime, index: int, until: float | None = None) -> bool:
    """One attempt to bring a failed member back. False where it failed, or where somebody else makes one. `until`: of
    a resync that takes longer the next attempt does the rest (monotonic seconds). Raises nothing."""
    generation = group.begin_recovery(index)
    if generation is None:
        return False
    label = f'group "{group.settings.label}": member {group.name(index)}'
    log.log("notice", f"{label}: recovery attempt {group.value.members[index].attempts.count + 1}")
    connection = group.new_connection(index, generation)
    reason, cause = "a fault of ours", Cause.LOST
    try:
        with group.arriving(connection):
            connection.connect(group.deadline())
            if not group.knows(index, connection):
                raise NotYet(STRANGER, Cause.NOT_A_MEMBER)
            group.learn_from(index, connection)
            unsynchronised = _admit(group, index, connection, until)
        reason = ""
    except NotYet as refusal:
        reason, cause = str(refusal), refusal.cause
    except (MemberLost, SessionRefused, SearchFailed) as loss:
        reason, cause = str(loss), Cause.NOT_A_MEMBER if connection.stranger else Cause.LOST
    except (NobodyLeft, MemoryError) as trouble:
        # The last member went while it was compared with, or this process has no memory: the next attempt sees.
        reason = str(trouble) or "no memory"
    finally:
        # Whatever happened: a member that stayed as being recovered would be tried by nobody again.
        if reason:
            connection.close()
            group.recovery_failed(index, generation, reason, cause)
    if reason:
        return False
    if unsynchronised:
        log.log("warning", f"{label} serves unsynchronised: there is no other member to compare it with")
    else:
        log.log("warning", f"{label} returned")
    return True


def _admit(group: GroupRuntime, index: int, connection: Connection, until: float | None) -> bool:
    """Let the member serve; whether it does so unsynchronised. Raises NotYet, NobodyLeft, MemberLost, SessionRefused,
    SearchFailed."""
    if group.raw:
        group.join(index, connection, unsynchronised=False)
        return False
    _enter(group, index, connection)
    try:
        while True:
            if group.value.serving():
                _expect_to_see_all(group)
                _resync(group, index, connection, until)
                return False
            with alone(group):
                if not group.value.serving():
                    _join(group, index, connection, unsynchronised=True)
                    return True
    except Occupied as reason:
        raise NotYet(str(reason), Cause.LOST) from None


def _enter(group: GroupRuntime, index: int, connection: Connection) -> None:
    """Bring it to the application's login, and see that it is a member still."""
    deadline = group.deadline()
    with group.login_lock:
        if group.value.serving():
            _expect_to_see_all(group)
        if group.sessions:
            connection.anchor(deadline)
        if group.user is not None:
            _log_in(group, index, connection, deadline)
        try:
            if group.user == ck.CKU_USER:
                locate(group, connection, deadline)
        except NotAdmitted as refusal:
            raise NotYet(f"not a member any more: {refusal}", Cause.NOT_A_MEMBER) from None


def _log_in(group: GroupRuntime, index: int, connection: Connection, deadline: float) -> None:
    try:
        group.log_in_returning(index, connection, deadline)
    except (LoginRefused, PinUnavailable) as refusal:
        raise NotYet(str(refusal), Cause.LOGIN_REFUSED) from None


def _expect_to_see_all(group: GroupRuntime) -> None:
    """Beside members that serve it may do so once it was compared with them. Raises NotYet where nobody is logged in
    who sees all objects; the SO does not."""
    if group.user != ck.CKU_USER:
        raise NotYet("awaiting login: its objects can be compared only then", Cause.AWAITING_LOGIN)


def _resync(group: GroupRuntime, index: int, connection: Connection, until: float | None) -> None:
    """Resynchronise, and let it serve in the same breath."""

    def serves(outcome: Outcome) -> None:
        reasons = outcome.bars(group.name(index), group.settings.unreplicable is Unreplicable.PIN)
        if reasons:
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            raise NotYet(f"its objects differ: {reasons[0]}{more}", Cause.DIFFERS)

    def then(outcome: Outcome) -> None:
        for line in conflicts_for_log(outcome.left, outcome.names):
            log.log("warning", f'group "{group.settings.label}": resync: {line}')
        serves(outcome)
        _join(group, index, connection, unsynchronised=False)

    def watch(done: int, total: int, step: Callable[[], str]) -> None:
        if log.says("notice"):
            log.log("notice", f'group "{group.settings.label}": member {group.name(index)}: resync: {step()}')

    try:
        if group.value.members[index].cause is Cause.DIFFERS:
            # Nobody is kept waiting for what could not be mended last time and cannot be mended now.
            planned = resynchronise(group, [*group.present(), (index, connection)], dry=True)
            if planned.finished:
                serves(planned)
        outcome = resync_member(group, index, connection, until, then, watch)
    except LostMeanwhile as loss:
        if loss.index == index:
            raise MemberLost(str(loss)) from None
        group.lost(loss.index, loss.connection.generation, str(loss))
        raise NotYet("a member that it was resynchronised with was lost", Cause.LOST) from None
    except Unreadable as failure:
        raise NotYet(str(failure), Cause.LOST) from None
    if outcome.done:
        log.log(
            "notice",
            f'group "{group.settings.label}": member {group.name(index)}: resync carried out {outcome.done} steps',
        )
    if not outcome.finished:
        raise NotYet("its resync is not at its end yet, and goes on at the next attempt", Cause.LOST)


def _join(group: GroupRuntime, index: int, connection: Connection, unsynchronised: bool) -> None:
    """It serves, if the application is still logged in as the member is."""
    with group.login_lock:
        if connection.logged_in != group.user:
            raise NotYet("the application's login changed meanwhile", Cause.LOST)
        if group.sessions:
            connection.anchor(group.deadline())
        group.join(index, connection, unsynchronised)
