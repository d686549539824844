"""Calls that concern every member: login, logout, PINs, seeding.

Source: SEMANTICS.md section 2 (login), section 1 (C_InitPIN, C_SetPIN), section 3 (route "everywhere").
"""

from typing import Any

from pyha.abi import pins
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Function, Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.runtime.admission import admit
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.operations import drop
from pyha.runtime.session import VirtualSession

_USERS = (ck.CKU_SO, ck.CKU_USER)


def login(group: GroupRuntime, session: VirtualSession, values: list[Any]) -> int:
    """C_Login; the CK_RV. Raises NobodyLeft. A wrong PIN costs one try on one token."""
    user, pin = values[1], values[2]
    if user == ck.CKU_CONTEXT_SPECIFIC:
        return _login_for_operation(group, session, pin)
    if user not in _USERS:
        return ck.CKR_USER_TYPE_INVALID
    with group.login_lock:
        if group.user is not None:
            return ck.CKR_USER_ALREADY_LOGGED_IN if group.user == user else ck.CKR_USER_ANOTHER_ALREADY_LOGGED_IN
        if user == ck.CKU_SO and any(not other.writable for other in group.sessions.values()):
            return ck.CKR_SESSION_READ_ONLY_EXISTS
        rv = _on_primary(group, BY_NAME["C_Login"], lambda connection, deadline: connection.login(user, pin, deadline))
        if rv != ck.CKR_OK:
            return rv
        group.pin = pins.keep_buffer(pin) if pin is not None else None
        group.user = user
        for index, connection in group.present():
            _quietly(
                group, index, connection, lambda deadline, i=index, c=connection: group.log_in_member(i, c, deadline)
            )
        if user == ck.CKU_USER:
            admit(group)
    return rv


def _login_for_operation(group: GroupRuntime, session: VirtualSession, pin: Any) -> int:
    """CKU_CONTEXT_SPECIFIC goes to the member of the open operation only, and ties the operation to it."""
    place = session.place
    if place is None:
        return ck.CKR_OPERATION_NOT_INITIALIZED
    try:
        rv, _ = place.connection.call("C_Login", group.deadline(), place.real, ck.CKU_CONTEXT_SPECIFIC, pin)
    except MemberLost as loss:
        group.lost(place.index, place.connection.generation, str(loss))
        drop(group, session)
        return ck.CKR_DEVICE_ERROR
    if rv == ck.CKR_OK:
        for journal in session.journals.values():
            journal.give_up()
    return rv


def logout(group: GroupRuntime) -> int:
    """C_Logout; the CK_RV. Open operations end, handles of private objects are void (section 5.6)."""
    with group.login_lock:
        if group.user is None:
            return ck.CKR_USER_NOT_LOGGED_IN
        for session in list(group.sessions.values()):
            with session.lock:
                drop(group, session)
        for index, connection in group.present():
            _quietly(group, index, connection, connection.logout)
        forget_login(group)
    return ck.CKR_OK


def forget_login(group: GroupRuntime) -> None:
    """Nobody is logged in any more: the PIN is wiped, private objects lose their handles."""
    group.user = None
    if group.pin is not None:
        group.pin.wipe()
        group.pin = None
    group.objects.remove_where(private=True)


def set_pin(group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any]) -> int:
    """C_InitPIN and C_SetPIN: only while every configured member is in; the primary's refusal ends it, a later one
    takes that member out."""
    if not session.writable:
        return ck.CKR_SESSION_READ_ONLY
    with group.login_lock:
        if not group.value.complete():
            return ck.CKR_DEVICE_ERROR
        first = True
        for index, connection in group.present():
            deadline = group.deadline(slow=True)
            try:
                rv, _ = connection.invoke(function, [connection.anchor(deadline), *values[1:]], deadline)
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
        new = values[-1]
        if group.user is not None and group.pin is not None and new is not None and function.name == "C_SetPIN":
            group.pin.wipe()
            group.pin = pins.keep_buffer(new)
    return ck.CKR_OK


def seed_random(group: GroupRuntime, function: Function, values: list[Any]) -> int:
    """C_SeedRandom on every member; the primary's answer."""
    answer: int | None = None
    for index, connection in group.present():
        deadline = group.deadline()
        try:
            session = connection.acquire(deadline)
            rv, _ = connection.invoke(function, [session, *values[1:]], deadline)
            connection.give_back(session)
        except SessionRefused as refusal:
            rv = refusal.rv
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        answer = rv if answer is None else answer
    if answer is None:
        raise group.nobody_left()
    return answer


def _on_primary(group: GroupRuntime, function: Function, call: Any) -> int:
    """The first member's answer; only a lost member is passed over."""
    while True:
        index, connection = group.login_order()[0]
        deadline = group.deadline(function.slow)
        try:
            rv = _settled(connection, call, deadline)
        except SessionRefused as refusal:
            return refusal.rv
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        return rv


def _settled(connection: Connection, call: Any, deadline: float) -> int:
    rv: int = call(connection, deadline)
    judgement = verdict(Route.EVERY, rv)
    if judgement is Verdict.SESSION_LOST:
        connection.forget_login()
        rv = call(connection, deadline)
        judgement = verdict(Route.EVERY, rv)
    if judgement is Verdict.MEMBER_LOST or (judgement is Verdict.SUSPECT and not connection.alive(deadline)):
        raise MemberLost(f"login answered {rv_name(rv)}")
    return rv


def _quietly(group: GroupRuntime, index: int, connection: Connection, call: Any) -> None:
    """One step on one of several members; a lost one is out and the rest go on."""
    try:
        call(group.deadline())
    except SessionRefused as refusal:
        group.lost(index, connection.generation, f"no session: {refusal}")
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
