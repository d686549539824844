"""C_CreateObject, C_CopyObject, C_GenerateKey(Pair), C_UnwrapKey, C_DeriveKey: an object made through the group is on
every member that is in before the application gets CKR_OK.

Chooses the way (`pyha.ha.replication`) and carries it out; what fails on the way is taken back, so that nothing
half-made stays on any member.

Source: SEMANTICS.md sections 2, 3 and 5.
"""

from dataclasses import dataclass
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.kinds import Kind
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Template
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.domain import impersonates
from pyha.ha.identity import number
from pyha.ha.replication import Way, value_of, wants_token, way_of
from pyha.ha.settings import Unreplicable as WhenUnreplicable
from pyha.runtime import log
from pyha.runtime.calls import Objects
from pyha.runtime.copying import copied_record, source_attributes
from pyha.runtime.failover import NotThere, run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import housekeeping, read_attributes
from pyha.runtime.making import MakeCall, make_with
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.originals import publish_originals
from pyha.runtime.publishing import Placed, Refusal, Unreplicable, identity_on
from pyha.runtime.session import VirtualSession

UNREPLICABLE_RV = ck.CKR_KEY_NOT_WRAPPABLE
"""What the application gets where a key cannot be on every member and the group refuses such keys: it names the
cause."""


@dataclass(frozen=True, slots=True)
class Part:
    """One object that a call makes. `template`, `result`: positions among the function's arguments. `asked`: the
    template, for a copy over what the source has. `object_class`: CKA_CLASS."""

    template: int
    result: int
    asked: Template
    object_class: int | None


def create(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any]
) -> tuple[int, list[Any]]:
    """A CREATE call: (CK_RV, results with virtual handles). Raises NobodyLeft, Unknown. The caller holds the session's
    lock."""
    parts = _parts(group, function, values)
    if any(wants_token(part.asked) for part in parts) and not session.writable:
        return ck.CKR_SESSION_READ_ONLY, []
    if group.raw:
        return _on_one(group, session, function, values, parts)
    if any(impersonates(values[part.template]) for part in parts):
        return ck.CKR_ATTRIBUTE_VALUE_INVALID, []
    ways = {way_of(part.asked, part.object_class, function.random) for part in parts}
    if ways == {Way.SESSION}:
        return _on_one(group, session, function, values, parts)
    copying = any(argument.kind is Kind.OBJECT for argument in function.arguments)
    try:
        if copying or ways == {Way.REPEAT}:
            try:
                return _repeat(group, session, function, values, parts[0], copying)
            except _Elsewhere:
                pass
        return publish_originals(group, session, function, values, parts)
    except Refusal as refusal:
        log.log("warning", f'group "{group.settings.label}": {function.name}: {refusal}; taken back')
        return refusal.rv, []
    except Unreplicable as reason:
        return _unreplicable(group, session, function, values, parts, str(reason))


class _Elsewhere(Exception):
    """The call cannot be repeated on every member, because an object that it starts from is not on all of them."""


def _parts(group: GroupRuntime, function: Function, values: list[Any]) -> list[Part]:
    templates = [position for position, each in enumerate(function.arguments) if each.kind is Kind.TEMPLATE]
    results = [position for position, each in enumerate(function.arguments) if each.kind is Kind.OUT_OBJECT]
    pair = len(templates) == 2
    parts = []
    for order, (template, result) in enumerate(zip(templates, results, strict=True)):
        asked: Template = values[template]
        for position, argument in enumerate(function.arguments):
            if argument.kind is Kind.OBJECT:
                asked = (*source_attributes(group, values[position]), *asked)
        if pair:
            object_class: int | None = (ck.CKO_PUBLIC_KEY, ck.CKO_PRIVATE_KEY)[order]
        elif function.random:
            object_class = ck.CKO_SECRET_KEY
        else:
            object_class = number(value_of(asked, ck.CKA_CLASS))
            if object_class is None and any(each.kind is Kind.MECHANISM for each in function.arguments):
                object_class = ck.CKO_SECRET_KEY
        parts.append(Part(template, result, asked, object_class))
    return parts


def _on_one(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any], parts: list[Part]
) -> tuple[int, list[Any]]:
    """Session objects, and all objects of a member's own slot: made on one member, where the application's session
    holds them."""
    call = MakeCall(group, function, values, session)
    rv, results = run(group, call)
    if rv != ck.CKR_OK or call.connection is None:
        return rv, []
    answer: list[Any] = [None] * len(values)
    for part in parts:
        real = results[part.result]
        identity = identity_on(call.connection, real, group.deadline())
        if identity is None:
            return ck.CKR_DEVICE_ERROR, []
        own = not identity.token
        entry = group.objects.made(
            identity,
            [(call.connection, real)],
            session.handle if own else None,
            (call.index, call.connection.generation) if own else None,
        )
        answer[part.result] = entry.handle
    return rv, answer


def _repeat(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any], part: Part, copying: bool
) -> tuple[int, list[Any]]:
    """The same call on every member. Raises _Elsewhere, Refusal, Unreplicable, NobodyLeft."""
    placed = Placed()
    try:
        record = copied_record(group, values[1], part.asked, placed) if copying else None
        first = MakeCall(group, function, values, None)
        rv, results = run(group, first)
        if rv != ck.CKR_OK or first.connection is None:
            placed.take_back(group)
            return rv, []
        placed.objects.append((first.index, first.connection, results[part.result]))
        first.connection.discard(first.real_session, group.deadline())
        made = [(first.connection, int(results[part.result]))]
        expected = _check_value(group, first.connection, made[0][1])
        for index, connection in group.present():
            if connection is first.connection:
                continue
            real = _again(group, index, connection, function, values, part, placed)
            if real is None:
                continue
            if expected and _check_value(group, connection, real) not in (b"", expected):
                raise Refusal(ck.CKR_DEVICE_ERROR, f"member {group.name(index)} made another key from the same call")
            made.append((connection, real))
        identity = identity_on(first.connection, made[0][1], group.deadline())
        if identity is None:
            raise Refusal(ck.CKR_DEVICE_ERROR, "the new object cannot be read")
        if record is not None:
            record.write(group, identity, placed)
        entry = group.objects.made(identity, made)
    except BaseException:
        placed.take_back(group)
        raise
    answer: list[Any] = [None] * len(values)
    answer[part.result] = entry.handle
    return ck.CKR_OK, answer


def _again(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    function: Function,
    values: list[Any],
    part: Part,
    placed: Placed,
) -> int | None:
    """The call once more on another member: the real handle, None where the member was lost. Raises _Elsewhere,
    Refusal."""
    deadline = group.deadline(function.slow)
    try:
        with housekeeping(connection, deadline) as real_session:
            own = Objects(group, function, values).translate(index, connection, real_session, deadline)
            rv, results = make_with(connection, function, own, deadline)
        judgement = verdict(function.route, rv)
        if judgement is Verdict.MEMBER_LOST or (judgement is Verdict.SUSPECT and not connection.alive(deadline)):
            raise MemberLost(f"{function.name} answered {rv_name(rv)}")
    except NotThere:
        raise _Elsewhere from None
    except SessionRefused as refused:
        raise Refusal(refused.rv, f"member {group.name(index)} refused a session") from None
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
        return None
    if rv != ck.CKR_OK:
        raise Refusal(rv, f"member {group.name(index)} refused what the primary accepted")
    placed.objects.append((index, connection, results[part.result]))
    return int(results[part.result])


def _check_value(group: GroupRuntime, connection: Connection, real: int) -> bytes:
    deadline = group.deadline()
    with housekeeping(connection, deadline) as session:
        return read_attributes(connection, session, real, (ck.CKA_CHECK_VALUE,), deadline).get(ck.CKA_CHECK_VALUE, b"")


def _unreplicable(
    group: GroupRuntime,
    session: VirtualSession,
    function: Function,
    values: list[Any],
    parts: list[Part],
    reason: str,
) -> tuple[int, list[Any]]:
    """What cannot be on every member: refused, or pinned to one (SEMANTICS.md section 5)."""
    label = group.settings.label
    if group.settings.unreplicable is WhenUnreplicable.REFUSE:
        log.log("error", f'group "{label}": {function.name} refused, the key cannot be on every member: {reason}')
        return UNREPLICABLE_RV, []
    call = MakeCall(group, function, values, None)
    rv, results = run(group, call)
    if rv != ck.CKR_OK or call.connection is None:
        return rv, []
    answer: list[Any] = [None] * len(values)
    for part in parts:
        identity = identity_on(call.connection, results[part.result], group.deadline())
        if identity is None:
            return ck.CKR_DEVICE_ERROR, []
        answer[part.result] = group.objects.made(identity, [(call.connection, results[part.result])]).handle
    call.connection.discard(call.real_session, group.deadline())
    log.log("warning", f'group "{label}": {function.name}: a key is on member {group.name(call.index)} only: {reason}')
    return rv, answer
