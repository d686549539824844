"""Calls that concern every member: login, logout, PINs, seeding.

Locks: a group's login lock is taken before a session's lock, never while one is held.

Source: SEMANTICS.md section 2 (login), section 1 (C_InitPIN, C_SetPIN), section 3 (route "everywhere").
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyha.abi import pins
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Function, Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.runtime.admission import admit
from pyha.runtime.failover import POISON_LIMIT
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.operations import drop
from pyha.runtime.returning import send_back
from pyha.runtime.session import VirtualSession

_Call = Callable[[Connection, float], int]
"""(connection, deadline) -> CK_RV of one call on one member. Raises MemberLost, SessionRefused."""

_USERS = (ck.CKU_SO, ck.CKU_USER)
_LOGGED_OUT = (ck.CKR_OK, ck.CKR_USER_NOT_LOGGED_IN)


def login(group: GroupRuntime, session: VirtualSession, values: list[Any]) -> int:
    """C_Login; the CK_RV. Raises NobodyLeft. A wrong PIN costs one try on one token."""
    user, pin = values[1], values[2]
    if user == ck.CKU_CONTEXT_SPECIFIC:
        with session.lock:
            return _login_for_operation(group, session, pin)
    if user not in _USERS:
        return ck.CKR_USER_TYPE_INVALID
    with group.login_lock:
        if session.closed:
            return ck.CKR_SESSION_HANDLE_INVALID
        if group.user is not None:
            return ck.CKR_USER_ALREADY_LOGGED_IN if group.user == user else ck.CKR_USER_ANOTHER_ALREADY_LOGGED_IN
        if user == ck.CKU_SO and any(not other.writable for other in list(group.sessions.values())):
            return ck.CKR_SESSION_READ_ONLY_EXISTS
        # Kept before it is tried: a login that could not be brought to the others must not have happened at all.
        kept = pins.keep_buffer(pin) if pin is not None else None
        rv = ck.CKR_GENERAL_ERROR
        try:
            rv = _on_primary(
                group, BY_NAME["C_Login"], lambda connection, deadline: connection.login(user, pin, deadline)
            )
            if rv == ck.CKR_OK:
                group.pin, group.user = kept, user
                rv = ck.CKR_GENERAL_ERROR
                _log_in_the_others(group, user)
                rv = ck.CKR_OK
        finally:
            if rv != ck.CKR_OK:
                forget_login(group)
                if kept is not None:
                    kept.wipe()
    return rv


def _log_in_the_others(group: GroupRuntime, user: int) -> None:
    """Raises NobodyLeft where no member is left that the application could work with."""
    for index, connection in group.present():

        def step(deadline: float, index: int = index, connection: Connection = connection) -> None:
            group.log_in_member(index, connection, deadline, present=True)

        _quietly(group, index, connection, step)
    if user == ck.CKU_USER:
        admit(group)
        send_back(group)
        group.news.compare_soon()
    group.present()


def _login_for_operation(group: GroupRuntime, session: VirtualSession, pin: Any) -> int:
    """CKU_CONTEXT_SPECIFIC goes to the member of the open operation only, and ties the operation to it."""
    place = session.place
    if place is None:
        return ck.CKR_OPERATION_NOT_INITIALIZED
    deadline = group.deadline(slow=True)
    try:
        place.connection.before_pin(deadline)
        rv, _ = place.connection.call("C_Login", deadline, place.real, ck.CKU_CONTEXT_SPECIFIC, pin)
        _judge(place.connection, "C_Login", rv, deadline)
    except MemberLost as loss:
        group.lost(place.index, place.connection.generation, str(loss))
        drop(group, session)
        return ck.CKR_DEVICE_ERROR
    if rv == ck.CKR_OK:
        with session.lock:
            for journal in session.journals.values():
                journal.give_up()
    return rv


def logout(group: GroupRuntime) -> int:
    """C_Logout; the CK_RV. Open operations end, handles of private objects are void (section 5.6)."""
    with group.login_lock:
        if group.user is None:
            return ck.CKR_USER_NOT_LOGGED_IN
        # First, so that no other thread brings a member back to a login that is over.
        forget_login(group)
        for session in list(group.sessions.values()):
            with session.lock:
                drop(group, session)
        _end_leaving(group)
        with suppress(NobodyLeft):  # members that are gone have no login
            for index, connection in group.present():

                def step(deadline: float, connection: Connection = connection) -> None:
                    rv = _settled(connection, "C_Logout", Connection.logout, deadline)
                    if rv not in _LOGGED_OUT:
                        # Its helper ends, and the login with it: the application was told that nobody is logged in.
                        raise MemberLost(f"C_Logout answered {rv_name(rv)}")

                _quietly(group, index, connection, step)
    return ck.CKR_OK


def forget_login(group: GroupRuntime) -> None:
    """Nobody is logged in any more: the PIN is wiped, private objects lose their handles."""
    group.user = None
    pin, group.pin = group.pin, None
    if pin is not None:
        pin.wipe()
    group.objects.remove_where(private=True)


def release(group: GroupRuntime) -> None:
    """The last virtual session closed: every member is logged out. Nothing where another one was opened meanwhile."""
    with group.login_lock:
        if group.sessions:
            return
        forget_login(group)
        _end_leaving(group)
        with suppress(NobodyLeft):
            for index, connection in group.present():
                _quietly(group, index, connection, connection.release_all)


def _end_leaving(group: GroupRuntime) -> None:
    """A member that the operator took out has nothing to finish after a logout, and must not stay logged in."""
    for index in group.leaving():
        group.retire(index, now=True)


def open_anchors(group: GroupRuntime) -> int:
    """While a virtual session is open every member keeps one anchor session: CKR_OK where at least one member has its
    own, else why they refuse. The caller holds the login lock. Raises NobodyLeft."""
    refusal = ck.CKR_OK
    opened = False
    for index, connection in group.present():
        try:
            connection.anchor(group.deadline())
            opened = True
        except SessionRefused as refused:
            refusal = refused.rv
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
    if not opened and refusal == ck.CKR_OK:
        raise group.nobody_left()
    return ck.CKR_OK if opened else refusal


def set_pin(group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any]) -> int:
    """C_InitPIN and C_SetPIN: only while every configured member is in; the primary's refusal ends it, a later one
    takes that member out. Raises NobodyLeft."""
    changes = function.name == "C_SetPIN"
    if changes and not session.writable:
        return ck.CKR_SESSION_READ_ONLY
    with group.login_lock:
        if not changes and group.user != ck.CKU_SO:
            return ck.CKR_USER_NOT_LOGGED_IN
        if not group.value.complete():
            return ck.CKR_DEVICE_ERROR
        new = values[-1]
        kept = pins.keep_buffer(new) if changes and group.pin is not None and new is not None else None
        first = True
        for index, connection in group.login_order():
            if changes and not first and group.settings.members[index].uri.pin_source is not None:
                continue  # its PIN is its own: the application's old one would only cost it a try
            try:
                rv = _set_pin_on(group, index, connection, function, values)
            except SessionRefused as refusal:
                rv = refusal.rv
            except MemberLost as loss:
                group.lost(index, connection.generation, str(loss))
                if first:
                    # What a lost primary did with the PIN nobody knows: nothing is done to the others.
                    return ck.CKR_DEVICE_ERROR
                continue
            if rv != ck.CKR_OK and first:
                return rv
            if rv != ck.CKR_OK:
                group.lost(
                    index,
                    connection.generation,
                    f"{function.name} answered {rv_name(rv)}, the primary's PIN is another now",
                )
            first = False
        if kept is not None:
            old, group.pin = group.pin, kept
            if old is not None:
                old.wipe()
    return ck.CKR_OK


def _set_pin_on(group: GroupRuntime, index: int, connection: Connection, function: Function, values: list[Any]) -> int:
    """The CK_RV of one member. Raises MemberLost, SessionRefused."""
    deadline = group.deadline(slow=True)
    if not group.log_in_member(index, connection, deadline):
        raise MemberLost("its login was refused")
    connection.before_pin(deadline)
    return _settled(
        connection,
        function.name,
        lambda connection, deadline: connection.invoke(function, [connection.anchor(deadline), *values[1:]], deadline)[
            0
        ],
        deadline,
    )


def seed_random(group: GroupRuntime, function: Function, values: list[Any]) -> int:
    """C_SeedRandom on every member; the primary's answer. Raises NobodyLeft."""
    answer: int | None = None
    poisoned = 0
    for index, connection in group.present():
        start = group.clock()
        try:
            rv = _settled(
                connection,
                function.name,
                lambda connection, deadline: connection.invoke(
                    function, [connection.anchor(deadline), *values[1:]], deadline
                )[0],
                group.deadline(),
            )
        except SessionRefused as refusal:
            rv = refusal.rv
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss), seconds=group.clock() - start)
            poisoned += loss.culprit
            if poisoned < POISON_LIMIT:
                continue
            rv = ck.CKR_DEVICE_ERROR
        answer = rv if answer is None else answer
        if poisoned >= POISON_LIMIT:
            break
    if answer is None:
        raise group.nobody_left()
    return answer


def _on_primary(group: GroupRuntime, function: Function, call: _Call) -> int:
    """The first member's answer; only a lost member is passed over, and not by a call that ends one helper after the
    other. Raises NobodyLeft."""
    poisoned = 0
    lost: tuple[int, str, float] | None = None
    while True:
        index, connection = group.login_order()[0]
        if lost is not None:
            group.news.count_failover(function.name, *lost, index)
        start = group.clock()
        try:
            return _settled(connection, function.name, call, group.deadline(function.slow))
        except SessionRefused as refusal:
            return refusal.rv
        except MemberLost as loss:
            lost = index, str(loss), group.clock() - start
            group.lost(index, connection.generation, str(loss), seconds=lost[2])
            poisoned += loss.culprit
            if poisoned >= POISON_LIMIT:
                return ck.CKR_DEVICE_ERROR


def _settled(connection: Connection, name: str, call: _Call, deadline: float) -> int:
    """The CK_RV of a call, of function `name`, on the anchor session, which is opened anew once where the member
    dropped it. Raises MemberLost, SessionRefused."""
    rv = call(connection, deadline)
    if verdict(Route.EVERY, rv) is Verdict.SESSION_LOST:
        connection.forget_login(connection.logins, deadline)
        rv = call(connection, deadline)
    return _judge(connection, name, rv, deadline)


def _judge(connection: Connection, name: str, rv: int, deadline: float) -> int:
    judgement = verdict(Route.EVERY, rv)
    if judgement is Verdict.MEMBER_LOST:
        raise MemberLost(f"{name} answered {rv_name(rv)}")
    if judgement is Verdict.SUSPECT:
        connection.expect_well(name, rv, deadline)
    return rv


def _quietly(group: GroupRuntime, index: int, connection: Connection, call: Callable[[float], Any]) -> None:
    """One step on one of several members; a lost one is out and the rest go on."""
    start = group.clock()
    try:
        call(group.deadline())
    except SessionRefused as refusal:
        group.lost(index, connection.generation, f"no session: {refusal}")
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss), seconds=group.clock() - start)
