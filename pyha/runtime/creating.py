"""C_CreateObject, C_CopyObject, C_GenerateKey(Pair), C_UnwrapKey, C_DeriveKey: an object made through the group is on
every member that is in before the application gets CKR_OK.

Chooses the way (`pyha.ha.replication`) and carries it out; what fails on the way is taken back, so that nothing
half-made stays on any member.

Source: SEMANTICS.md sections 2, 3 and 5.
"""

from contextlib import ExitStack
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import PROTECTIONS
from pyha.cryptoki.functions import Function
from pyha.cryptoki.kinds import Kind
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Template
from pyha.ha.arrays import ARRAYS, is_dated, lost
from pyha.ha.domain import impersonates
from pyha.ha.identity import number
from pyha.ha.replication import (
    KEY_CLASSES,
    Way,
    generated_class,
    misstates_token,
    stays_extractable,
    value_of,
    wants_token,
    way_of,
)
from pyha.ha.settings import Unreplicable as WhenUnreplicable
from pyha.ha.telling import type_names
from pyha.runtime import log
from pyha.runtime.binding import handles_of
from pyha.runtime.calls import Objects
from pyha.runtime.cloning import Place
from pyha.runtime.copying import Copy, source_attributes
from pyha.runtime.failover import NotThere, run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.half_made import Creation
from pyha.runtime.housekeeping import housekeeping
from pyha.runtime.keeping import make_session_objects
from pyha.runtime.kept import KeptKey
from pyha.runtime.making import MakeCall, identity_on, make_with
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.objects import Entry
from pyha.runtime.originals import identity_of_made, publish_kept, publish_originals
from pyha.runtime.outcomes import (
    Disturbed,
    Doubtful,
    Refusal,
    Unreplicable,
    begun_anew,
    is_without_reason,
    refused,
)
from pyha.runtime.refinding import DOUBTFUL, clear_remainder, count_made_with, made_with, went_with_its_login
from pyha.runtime.session import VirtualSession
from pyha.runtime.showing import shown
from pyha.runtime.steps import Placed, expect_tokens, on_each, step

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


class _Elsewhere(Exception):
    """The call cannot be repeated on every member, because an object that it starts from is not on all of them."""


def create(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any]
) -> tuple[int, list[Any]]:
    """A CREATE call: (CK_RV, results with virtual handles). Raises NobodyLeft, Unknown. The caller holds the session's
    lock."""
    parts = _parts(group, function, values)
    templates = [values[part.template] for part in parts]
    # First: of what is no boolean nobody can say whether a read-only session may make it.
    if not group.raw and any(impersonates(each) or misstates_token(each) for each in templates):
        return ck.CKR_ATTRIBUTE_VALUE_INVALID, []
    if any(wants_token(part.asked) for part in parts) and not session.writable:
        return ck.CKR_SESSION_READ_ONLY, []

    def once() -> tuple[int, list[Any]]:
        rv, results = _by_its_way(group, session, function, values, parts)
        if is_without_reason(rv) and not group.raw:
            raise Doubtful(rv, "it was not made")
        return rv, results

    lasting = not group.raw and any(wants_token(part.asked) for part in parts)
    with ExitStack() as inside:
        if lasting:
            inside.enter_context(group.changes.shared(group.deadline()))
            copied = _copied(group, function, values, parts[0])
            if copied is not None:
                # Changed meanwhile, its copies would differ.
                inside.enter_context(group.changes.steady(copied.entry.identity.kind, False, group.deadline()))
        try:
            if lasting:
                expect_tokens(group, function.name)
            try:
                return begun_anew(once)
            except Unreplicable as unreplicable:
                reason = str(unreplicable)
            return begun_anew(lambda: _unreplicable(group, session, function, values, parts, reason))
        except Refusal as refusal:
            log.log("warning", f'group "{group.settings.label}": {function.name}: {refusal}; taken back')
            return refusal.rv, []


def _by_its_way(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any], parts: list[Part]
) -> tuple[int, list[Any]]:
    if group.raw:
        return _on_one(group, session, function, values, parts)
    ways = {way_of(part.asked, part.object_class, function.random) for part in parts}
    if ways == {Way.SESSION}:
        return make_session_objects(group, session, function, values, parts)
    kept = _kept(group, function, values, parts[0])
    if kept is not None:
        return publish_kept(group, kept, values, parts[0])
    copied = _copied(group, function, values, parts[0])
    if copied is not None or (ways == {Way.REPEAT} and not _starts_in_session(group, function, values)):
        try:
            return _repeat(group, function, values, parts[0], copied)
        except _Elsewhere:
            pass
    try:
        return publish_originals(group, session, function, values, parts)
    except Unreplicable:
        if function.random or not is_dated(parts[0].asked) or not stays_extractable(parts[0].asked):
            raise
        # No record can be made of it, to tell its dates to members to come.
        return _repeat(group, function, values, parts[0], copied)


def _starts_in_session(group: GroupRuntime, function: Function, values: list[Any]) -> bool:
    """Whether the call starts from a session object: it is not brought to every member for that."""
    entries = [group.objects.get(handle) for handle, _ in handles_of(function, values)]
    return len(group.present()) > 1 and any(entry is not None and entry.session is not None for entry in entries)


def _kept(group: GroupRuntime, function: Function, values: list[Any], part: Part) -> Entry | None:
    """The session key that C_CopyObject makes a token object of, where its wrapped form was kept and allows it."""
    if stays_extractable(part.asked):
        return None
    for position, argument in enumerate(function.arguments):
        if argument.kind is Kind.OBJECT:
            entry = group.objects.get(values[position])
            if entry is not None and isinstance(entry.kept, KeptKey) and entry.kept.copyable:
                return entry
    return None


def _copied(group: GroupRuntime, function: Function, values: list[Any], part: Part) -> Copy | None:
    """What C_CopyObject copies, where that is a token object; else None."""
    for position, argument in enumerate(function.arguments):
        if argument.kind is Kind.OBJECT:
            entry = group.objects.get(values[position])
            if entry is not None and entry.session is None:
                return Copy(entry, part.asked, values[part.template])
    return None


def _parts(group: GroupRuntime, function: Function, values: list[Any]) -> list[Part]:
    templates = [position for position, each in enumerate(function.arguments) if each.kind is Kind.TEMPLATE]
    results = [position for position, each in enumerate(function.arguments) if each.kind is Kind.OUT_OBJECT]
    parts = []
    for order, (template, result) in enumerate(zip(templates, results, strict=True)):
        asked: Template = values[template]
        object_class: int | None = None
        for position, argument in enumerate(function.arguments):
            if argument.kind is Kind.OBJECT:
                asked = (*source_attributes(group, values[position]), *asked)
            elif argument.kind is Kind.MECHANISM:
                object_class = generated_class(values[position].type)
        if len(templates) == 2:
            object_class = (ck.CKO_PUBLIC_KEY, ck.CKO_PRIVATE_KEY)[order]
        elif not function.random:
            said = number(value_of(asked, ck.CKA_CLASS))
            object_class = object_class if said is None else said
        parts.append(Part(template, result, asked, object_class))
    return parts


def _on_one(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any], parts: list[Part]
) -> tuple[int, list[Any]]:
    """All objects of a member's own slot, and what is kept on one member: made there, where the application's session
    holds what is a session object. Raises Refusal."""
    creation = Creation(group, function.name)
    call = MakeCall(group, function, values, session)
    try:
        rv, results = run(group, call)
    finally:
        if not group.raw and any(wants_token(part.asked) for part in parts):
            # A key that a lost member has made is another one than that of the next, and nobody knows it.
            creation.warn()
    if rv != ck.CKR_OK or call.connection is None:
        return rv, []
    for part in parts:
        find = made_with(part.asked) if wants_token(part.asked) else went_with_its_login
        creation.placed.add(call.index, call.connection, results[part.result], find)
    answer: list[Any] = [None] * len(values)
    try:
        for part in parts:
            real = results[part.result]
            identity = identity_on(group, call.index, call.connection, real)
            if identity is None:
                raise Disturbed(ck.CKR_DEVICE_ERROR, "the new object cannot be read")
            own = not identity.token
            if not own and not group.raw:
                creation.made(identity)
            entry = group.objects.made(
                identity,
                [(call.connection, real)],
                session.handle if own else None,
                (call.index, call.connection.generation) if own else None,
            )
            answer[part.result] = entry.handle
    except MemberLost as loss:
        group.lost(call.index, call.connection.generation, str(loss))
        what = f"member {group.name(call.index)} was lost with the new object"
        if any(wants_token(part.asked) for part in parts):
            raise Refusal(ck.CKR_DEVICE_ERROR, what) from None
        raise Disturbed(ck.CKR_DEVICE_ERROR, what) from None  # it went with its member: the next one makes another
    except Refusal:
        creation.take_back()
        raise
    return rv, answer


def _repeat(
    group: GroupRuntime, function: Function, values: list[Any], part: Part, copied: Copy | None
) -> tuple[int, list[Any]]:
    """The same call on every member. Raises _Elsewhere, Refusal, Unreplicable, NobodyLeft."""
    creation = Creation(group, function.name)
    placed = creation.placed
    try:
        record = copied.record(group) if copied is not None else None
        first = MakeCall(group, function, values, None)
        rv, results = run(group, first)
        if rv != ck.CKR_OK or first.connection is None:
            if is_without_reason(rv) and first.last is not None:
                try:
                    _expect_no_remainder(group, *first.last, part, None)
                except MemberLost as loss:
                    group.lost(first.last[0], first.last[1].generation, str(loss))
            creation.warn()
            return rv, []
        placed.add(first.index, first.connection, results[part.result], made_with(part.asked))
        first.connection.discard(first.real_session, group.deadline())
        # Where the result of one call can be told from another's, all members must have come to the same.
        expected: dict[int, bytes] = {}

        def work(index: int, connection: Connection) -> int:
            if connection is first.connection:
                real = int(results[part.result])
            else:
                assert first.connection is not None
                maker = first.index, first.connection
                real = _again(group, index, connection, function, values, part, placed, maker)
            found = _shown(group, index, connection, real)
            if not expected:
                expected.update(found)
            what = f"member {group.name(index)} made another key from the same call"
            if part.object_class in KEY_CLASSES:
                check_value = found.get(ck.CKA_CHECK_VALUE)
                if check_value and expected.setdefault(ck.CKA_CHECK_VALUE, check_value) != check_value:
                    raise Refusal(ck.CKR_DEVICE_ERROR, what)
            lacking = lost(expected, found)
            if lacking:
                raise Refusal(ck.CKR_DEVICE_ERROR, f"{what}: without {type_names(lacking)}")
            return real

        made = on_each(group, function.name, work)
        identity = identity_of_made(group, made)
        if record is not None:
            record.write(group, identity, placed)
        creation.made(identity)
        entry = group.objects.made(identity, made)
        if copied is not None:
            entry.value_length = copied.entry.value_length
        placed.unbind_forgotten(group, entry.handle)
    except BaseException:
        creation.take_back()
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
    maker: Place,
) -> int:
    """The call once more on another member: the real handle. `maker`: who has made it first. Raises _Elsewhere,
    Refusal, MemberLost."""
    objects = Objects(group, function, values)

    def attempt(deadline: float) -> tuple[int, int]:
        with housekeeping(connection, deadline) as session:
            try:
                own = objects.translate(index, connection, session, deadline)
            except NotThere:
                raise _Elsewhere from None
            rv, results = make_with(connection, function, own, deadline)
            return rv, results[part.result] if rv == ck.CKR_OK else 0

    rv, real = step(group, index, connection, function.name, attempt, objects.unbind)
    if is_without_reason(rv):
        _expect_no_remainder(group, index, connection, part, maker)
    if rv != ck.CKR_OK or real is None:
        raise refused(rv, f"member {group.name(index)} refused what the primary accepted")
    placed.add(index, connection, real, made_with(part.asked))
    return real


def _expect_no_remainder(
    group: GroupRuntime, index: int, connection: Connection, part: Part, maker: Place | None
) -> None:
    """A member that failed without a reason has made nothing all the same, as far as a name tells, or that it holds
    more like it than another. `maker`: who has made one more. Raises MemberLost, Refusal."""
    if not value_of(part.asked, ck.CKA_LABEL) and not value_of(part.asked, ck.CKA_ID):
        other = maker or next((place for place in group.present() if place[0] != index), None)
        if other is not None:
            expected = _like_it(group, other, part)
            found = _like_it(group, (index, connection), part)
            if expected is not None and found is not None and found > expected - (maker is not None):
                raise MemberLost(DOUBTFUL)
        return

    def attempt(deadline: float) -> tuple[int, None]:
        with housekeeping(connection, deadline) as session:
            clear_remainder(connection, session, part.asked, None, False, deadline)
        return ck.CKR_OK, None

    step(group, index, connection, "C_FindObjectsInit", attempt)


def _like_it(group: GroupRuntime, place: Place, part: Part) -> int | None:
    """How many objects a member holds that may have been made by this call; None where it is lost. Raises Refusal."""
    index, connection = place

    def attempt(deadline: float) -> tuple[int, int]:
        with housekeeping(connection, deadline, reads=True) as session:
            return ck.CKR_OK, count_made_with(connection, session, part.asked, deadline)

    try:
        return step(group, index, connection, "C_FindObjectsInit", attempt)[1]
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
        return None


_COMPARED = (ck.CKA_CHECK_VALUE, ck.CKA_ALLOWED_MECHANISMS, *ARRAYS, *PROTECTIONS)


def _shown(group: GroupRuntime, index: int, connection: Connection, real: int) -> dict[int, bytes]:
    def attempt(deadline: float) -> tuple[int, dict[int, bytes]]:
        with housekeeping(connection, deadline, reads=True) as session:
            found = shown(connection, session, real, _COMPARED, deadline)
        if not found:  # its handle went with a login
            return ck.CKR_OBJECT_HANDLE_INVALID, {}
        return ck.CKR_OK, {kind: value for kind, value in found.items() if value or kind != ck.CKA_CHECK_VALUE}

    rv, found = step(group, index, connection, "C_GetAttributeValue", attempt)
    if rv != ck.CKR_OK or not found:
        raise refused(rv, f"member {group.name(index)} does not show what it made")
    return found


def _unreplicable(
    group: GroupRuntime,
    session: VirtualSession,
    function: Function,
    values: list[Any],
    parts: list[Part],
    reason: str,
) -> tuple[int, list[Any]]:
    """What cannot be on every member: refused, or pinned to one (SEMANTICS.md section 5). Raises Refusal."""
    label = group.settings.label
    if group.settings.unreplicable is WhenUnreplicable.REFUSE:
        log.log("error", f'group "{label}": {function.name} refused, the key cannot be on every member: {reason}')
        return UNREPLICABLE_RV, []
    rv, answer = _on_one(group, session, function, values, parts)
    if rv == ck.CKR_OK:
        homes = [group.name(index) for index, each in group.present() if answer[parts[-1].result] in each.bound]
        where = ", ".join(homes)
        log.log("warning", f'group "{label}": {function.name}: a key is on member {where} only: {reason}')
    return rv, answer
