"""From the application's creating call to objects on every member: the originals, what they show, and their proof.

The originals are extractable session objects on a real session of their own on one member; whatever happens, closing
that session destroys them. If that member is lost before anything was published, the next one makes new originals.

Source: SEMANTICS.md section 5.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.keys import KEY_TYPES
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import dataclass, field, replace
from pyha.cryptoki.values import Attribute, Query, Template
from pyha.ha.arrays import lost, values_of
from pyha.ha.carrying import object_template
from pyha.ha.cloning import Carried
from pyha.ha.identity import READ, Identity, identity_of, number
from pyha.ha.replication import (
    KEY_CLASSES,
    attributes_to_create,
    attributes_to_read,
    created_template,
    guards,
    original_template,
    published_template,
    restated_template,
    wants_token,
)
from pyha.ha.telling import type_names
from pyha.runtime.bench import Bench
from pyha.runtime.failover import Tried, run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.half_made import Creation
from pyha.runtime.housekeeping import SearchFailed, at_hand, create, read_attributes
from pyha.runtime.kept import Kept, KeptKey, KeptObject
from pyha.runtime.making import MakeCall, identity_on, lacking_on
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.objects import Entry
from pyha.runtime.outcomes import Disturbed, Refusal, Unreplicable, is_without_reason, refused
from pyha.runtime.proving import (
    CheckValue,
    Proof,
    agreement,
    can_agree,
    check_value_proof,
    computed_check_value,
    encrypts_for_check_value,
    public_proof,
)
from pyha.runtime.publishing import prove_copy, publish
from pyha.runtime.refinding import clear_remainder, made_with, went_with_its_login
from pyha.runtime.session import VirtualSession
from pyha.runtime.showing import Look, weaknesses
from pyha.runtime.steps import Placed, on_each, step
from pyha.runtime.strategy import carry, make_of, require_strategy
from pyha.runtime.twins import whole_public_part

if TYPE_CHECKING:
    from pyha.runtime.creating import Part

Shown = dict[int, bytes]


def publish_originals(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any], parts: "list[Part]"
) -> tuple[int, list[Any]]:
    """Make, wrap, publish: (CK_RV, results with virtual handles). Raises Refusal, Unreplicable, NobodyLeft, Unknown."""
    if group.user != ck.CKU_USER and any(part.object_class in KEY_CLASSES for part in parts):
        # No key is cloned in a public or SO session; the member says what it thinks of the call itself.
        rv = _as_asked(group, function, values, parts)
        return (ck.CKR_USER_NOT_LOGGED_IN if rv == ck.CKR_OK else rv), []
    while True:
        call = MakeCall(group, function, _original_values(values, parts), None)
        rv, results = run(group, call)
        if rv != ck.CKR_OK or call.connection is None:
            return _refused(group, function, values, parts, rv), []
        connection = call.connection
        try:
            try:
                prepared = _prepare(group, call, values, parts, results)
            except MemberLost as loss:
                group.lost(call.index, connection.generation, str(loss))
                continue
            except SessionRefused as refusal:
                raise Refusal(refusal.rv, f"member {group.name(call.index)} refused a session") from None
            except SearchFailed as failure:
                if is_without_reason(failure.rv):
                    raise Unreplicable(f"what was made of it answers {failure}", doubtful=True) from None
                raise refused(failure.rv, f"member {group.name(call.index)} cannot read what it made") from None
            except Unreplicable:
                _expect_originals(group, call, parts, results)
                raise
            return ck.CKR_OK, _publish_all(group, session, call, values, parts, prepared)
        finally:
            connection.discard(call.real_session, group.deadline())


def _expect_originals(group: GroupRuntime, call: MakeCall, parts: "list[Part]", results: list[Any]) -> None:
    """That what went wrong did so with the originals in place: with their session or login they would be gone, and it
    would say nothing of the key. Raises Disturbed."""
    connection = call.connection
    assert connection is not None
    for part in parts:
        query = (Query(ck.CKA_CLASS, 8),)
        try:
            rv, _ = connection.call(
                "C_GetAttributeValue", group.deadline(), call.real_session, results[part.result], query
            )
        except (MemberLost, SessionRefused):
            return
        outcome = refused(rv, f"member {group.name(call.index)} forgot what it made")
        if isinstance(outcome, Disturbed):
            raise outcome from None


def _original_values(values: list[Any], parts: "list[Part]", also: Template = ()) -> list[Any]:
    changed = list(values)
    for part in parts:
        template = original_template(values[part.template], part.object_class)
        said = {each.type for each in also}
        changed[part.template] = (*(each for each in template if each.type not in said), *also)
    return changed


def _refused(group: GroupRuntime, function: Function, values: list[Any], parts: "list[Part]", rv: int) -> int:
    """The member refused the original. If it refuses the application's own call too, that is the answer."""
    own = _as_asked(group, function, values, parts)
    if own == ck.CKR_OK:
        disturbed = refused(rv, "no original of it was made")
        if isinstance(disturbed, Disturbed):
            raise disturbed
        raise Unreplicable(f"no extractable original of it can be made: {rv_name(rv)}", is_without_reason(rv))
    return own


def _as_asked(group: GroupRuntime, function: Function, values: list[Any], parts: "list[Part]") -> int:
    """What a member answers to the application's own call, tried with session objects that are thrown away at once."""
    trial = list(values)
    for part in parts:
        kept = tuple(each for each in values[part.template] if each.type != ck.CKA_TOKEN)
        # Named, because a copy of a token object would be one too.
        trial[part.template] = (*kept, Attribute(ck.CKA_TOKEN, b"\0"))
    call = MakeCall(group, function, trial, None)
    rv, _ = run(group, call)
    if rv == ck.CKR_OK and call.connection is not None:
        call.connection.discard(call.real_session, group.deadline())
    return rv


@dataclass(slots=True)
class _Prepared:
    """The originals of one call: what each shows, by result position, and the wrapped form of the key."""

    shown: dict[int, Shown] = field(default_factory=dict)
    key: Identity | None = None
    carried: Carried | None = None
    proof: Proof | None = None


def _prepare(
    group: GroupRuntime, call: MakeCall, values: list[Any], parts: "list[Part]", results: list[Any]
) -> _Prepared:
    """Read and wrap. Raises Unreplicable, MemberLost, SessionRefused, SearchFailed."""
    connection, session = call.connection, call.real_session
    assert connection is not None
    deadline = group.deadline(slow=True)
    prepared = _Prepared()
    public: Shown = {}
    for part in parts:
        real = results[part.result]
        shown = _shown(connection, session, real, part.object_class, deadline)
        prepared.shown[part.result] = shown
        if part.object_class not in KEY_CLASSES:
            public = shown
            continue
        template = published_template(part.asked, shown)
        require_strategy(group, shown)
        untold = set(lost(values_of(part.asked), values_of(template))) - {ck.CKA_TRUSTED}
        if untold:
            raise Unreplicable(f"no copy could be given {type_names(untold)}")
        prepared.proof = _proof(call, values, parts, real, shown, {**shown, **public}, deadline)
        if isinstance(prepared.proof, CheckValue):
            shown[ck.CKA_CHECK_VALUE] = prepared.proof.check_value
        bench = Bench(group, connection, session, deadline)
        prepared.carried = carry(bench, real, shown, template, prepared.proof)
        prepared.key = _identity(shown, part, public)
    return prepared


def _shown(connection: Connection, session: int, real: int, expected: int | None, deadline: float) -> Shown:
    kind = read_attributes(connection, session, real, (ck.CKA_CLASS, ck.CKA_KEY_TYPE), deadline, sure=True)
    object_class, key_type = number(kind.get(ck.CKA_CLASS)), number(kind.get(ck.CKA_KEY_TYPE))
    if object_class is None or (expected is not None and object_class != expected):
        raise Unreplicable("the original cannot be read")
    if object_class not in KEY_CLASSES:
        wanted: set[int] = set(attributes_to_create(object_class, key_type))
        if not wanted:
            raise Unreplicable("such an object cannot be read and created again")
    elif key_type is None:
        raise Unreplicable("the original cannot be read")
    else:
        row = KEY_TYPES.get(key_type)
        wanted = {*READ, *attributes_to_read(object_class), *(row.public if row is not None else ())} - {ck.CKA_VALUE}
    return read_attributes(connection, session, real, sorted(wanted), deadline, sure=True)


def _proof(
    call: MakeCall,
    values: list[Any],
    parts: "list[Part]",
    real: int,
    shown: Shown,
    public: Shown,
    deadline: float,
) -> Proof:
    """How copies of this original are proved. Raises Unreplicable, MemberLost, SearchFailed."""
    connection, session = call.connection, call.real_session
    assert connection is not None
    key_type = number(shown[ck.CKA_KEY_TYPE]) or 0

    def able(usage: int) -> int:
        """The original, or another one from the same call, that may be used so."""
        if call.function.random or shown.get(usage) == b"\1":
            return real
        rv, results = call.again(_original_values(values, parts, (Attribute(usage, b"\1"),)), deadline)
        if rv != ck.CKR_OK:
            raise Unreplicable("a copy of such a key cannot be proved", is_without_reason(rv))
        return int(results[parts[0].result])

    if number(shown[ck.CKA_CLASS]) == ck.CKO_SECRET_KEY:
        check_value = b""
        if not call.function.random or not shown.get(ck.CKA_CHECK_VALUE):
            # Modules leave it empty after C_UnwrapKey, and show that of another key after C_DeriveKey.
            key = able(ck.CKA_ENCRYPT) if encrypts_for_check_value(key_type) else real
            check_value = computed_check_value(connection, session, key, key_type, deadline)
        return check_value_proof(check_value or shown.get(ck.CKA_CHECK_VALUE))
    proof: Proof | None = public_proof(key_type, public)
    only_derives = shown.get(ck.CKA_SIGN) != b"\1" and shown.get(ck.CKA_DERIVE) == b"\1"
    if can_agree(key_type) and (proof is None or only_derives):
        # By what the key is for, so that each copy can be put to the proof itself.
        proof = agreement(connection, session, able(ck.CKA_DERIVE), key_type, shown, deadline) or proof
    if proof is None:
        proof = public_proof(key_type, whole_public_part(connection, session, key_type, public, deadline))
    if proof is None:
        raise Unreplicable("a copy of such a private key cannot be proved", doubtful=True)
    return proof


def _identity(shown: Shown, part: "Part", public: Shown) -> Identity:
    """The identity of the key to be: the original's, as a token object."""
    attributes = {kind: value for kind, value in shown.items() if kind in READ}
    attributes[ck.CKA_TOKEN] = b"\1" if wants_token(part.asked) else b"\0"
    # As it will be read: without an id nothing on a token says which public key is its own.
    return identity_of(attributes, None, public.get(ck.CKA_EC_POINT) if attributes.get(ck.CKA_ID) else None)


def _publish_all(
    group: GroupRuntime,
    session: VirtualSession,
    call: MakeCall,
    values: list[Any],
    parts: "list[Part]",
    prepared: _Prepared,
) -> list[Any]:
    """Every object of the call onto its members: the results. Takes everything back where one of them fails."""
    creation = Creation(group, call.function.name)
    placed = creation.placed
    answer: list[Any] = [None] * len(values)
    try:
        for part in parts:
            if not wants_token(part.asked):
                answer[part.result] = _for_session(group, session, call, part, prepared, placed)
                continue
            if part.object_class in KEY_CLASSES:
                assert prepared.carried is not None
                assert prepared.proof is not None
                assert prepared.key is not None
                made = publish(group, prepared.carried, prepared.proof, prepared.key, placed, call.function.random)
                creation.made(prepared.key)
                entry = group.objects.made(prepared.key, made)
                entry.value_length = prepared.carried.value_length
            else:
                template = created_template(part.asked, prepared.shown[part.result], token=True)
                made = create_everywhere(group, template, placed, call.function.random)
                identity = identity_of_made(group, made)
                creation.made(identity)
                entry = group.objects.made(identity, made)
            placed.unbind_forgotten(group, entry.handle)
            answer[part.result] = entry.handle
    except BaseException:
        creation.take_back()
        for handle in answer:
            if handle is not None:
                group.objects.remove(handle)
        raise
    return answer


def create_everywhere(
    group: GroupRuntime, template: Template, placed: Placed, fresh: bool
) -> list[tuple[Connection, int]]:
    """An object that is no secret on every member that is in. `fresh`: there is no such one yet. Raises Refusal,
    NobodyLeft."""
    promised = values_of(template)
    return on_each(
        group,
        placed.what,
        lambda index, connection: create_on(group, index, connection, template, promised, placed, fresh=fresh),
    )


def create_on(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    template: Template,
    promised: Mapping[int, bytes],
    placed: Placed,
    look: Look = weaknesses,
    fresh: bool | None = None,
    tried: Tried | None = None,
) -> int:
    """An object that is no secret on one member, which need not be in yet, with all the protections `promised`: its
    real handle. `look` reads it back. `fresh`: there is no such one yet; None: in a resync, which sees what was made.
    `tried`: the first try, where it was made already. Raises Refusal, MemberLost."""
    find = made_with(template)

    def attempt(deadline: float) -> tuple[int, int]:
        with at_hand(connection, deadline) as session:
            rv, real = create(connection, session, template, deadline)
            if fresh is not None and is_without_reason(rv):
                clear_remainder(connection, session, template, None, fresh, deadline)
            return rv, real

    rv, real = step(group, index, connection, "C_CreateObject", attempt, tried=tried)
    if rv != ck.CKR_OK or real is None:
        raise refused(rv, f"member {group.name(index)} refused C_CreateObject")
    # The login in which a try before this has made it may be over by now, and its handle with it.
    logins = tried.logins if tried is not None and tried.rv == ck.CKR_OK else None
    placed.add(index, connection, real, find, logins=logins)
    lacking = lacking_on(group, index, connection, real, promised, look)
    if lacking:
        raise Refusal(ck.CKR_DEVICE_ERROR, f"member {group.name(index)} makes it without {lacking}")
    return real


def identity_of_made(group: GroupRuntime, made: list[tuple[Connection, int]]) -> Identity:
    """The identity of an object that was just made, from the first member that shows it. Raises Refusal."""
    for connection, real in made:
        index = next((at for at, each in enumerate(group.connections) if each is connection), None)
        if index is None:
            continue
        try:
            identity = identity_on(group, index, connection, real)
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        if identity is not None:
            return identity
    raise Disturbed(ck.CKR_DEVICE_ERROR, "the new object cannot be read")


def _for_session(
    group: GroupRuntime,
    session: VirtualSession,
    call: MakeCall,
    part: "Part",
    prepared: _Prepared,
    placed: Placed,
) -> int:
    """The half of a pair that is to be a session object: on the originals' member, where the application's session
    holds it. Raises Refusal, Unreplicable."""
    connection, index = call.connection, call.index
    assert connection is not None

    def attempt(deadline: float) -> tuple[int, int]:
        holder = session.holder(index, connection, deadline)
        if part.object_class not in KEY_CLASSES:
            template = created_template(part.asked, prepared.shown[part.result], token=False)
            return create(connection, holder, template, deadline)
        assert prepared.carried is not None
        assert prepared.proof is not None
        rv = prove_copy(group, index, connection, call.real_session, prepared.carried, prepared.proof, deadline)
        if rv != ck.CKR_OK:
            return rv, 0
        template = tuple(each for each in prepared.carried.template if each.type != ck.CKA_TOKEN)
        return make_of(Bench(group, connection, holder, deadline), prepared.carried, template)

    try:
        rv, real = step(group, index, connection, call.function.name, attempt)
        if rv != ck.CKR_OK or real is None:
            raise refused(rv, f"member {group.name(index)} refused the session object")
        placed.add(index, connection, real, went_with_its_login)
        if part.object_class in KEY_CLASSES:
            assert prepared.carried is not None
            lacking = lacking_on(group, index, connection, real, values_of(prepared.carried.template))
            if lacking:
                raise Unreplicable(f"the copy on member {group.name(index)} lacks {lacking}")
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
        raise Disturbed(ck.CKR_DEVICE_ERROR, "the member that holds the session object was lost") from None
    home = (index, connection.generation)
    if part.object_class in KEY_CLASSES:
        assert prepared.key is not None
        identity = prepared.key
    else:
        identity = identity_of_made(group, [(connection, real)])
    if part.object_class in KEY_CLASSES:
        assert prepared.carried is not None
        kept: Kept | None = KeptKey(prepared.carried, prepared.proof)
    else:
        kept = _kept_object(part, prepared.shown[part.result])
    entry = group.objects.made(identity, [(connection, real)], session.handle, home, kept)
    if isinstance(kept, KeptKey):
        entry.value_length = kept.carried.value_length
    return entry.handle


def _kept_object(part: "Part", shown: Shown) -> Kept | None:
    template = object_template(part.asked, shown, created=False)
    return None if template is None else KeptObject(template)


def publish_kept(group: GroupRuntime, entry: Entry, values: list[Any], part: "Part") -> tuple[int, list[Any]]:
    """A token object on every member, from the kept form of a session key. Raises Refusal, Unreplicable, NobodyLeft."""
    kept = entry.kept
    if not isinstance(kept, KeptKey) or kept.proof is None:
        raise Unreplicable("nothing is kept of it that could be proved")
    changes: Template = (*values[part.template], Attribute(ck.CKA_TOKEN, b"\1"))
    key_class, key_type = entry.identity.object_class or 0, entry.identity.key_type or 0
    template = restated_template(kept.carried.template, changes, key_class, key_type)
    if not guards(kept.carried.domain, template):
        raise Unreplicable("its wrapped form is under a domain key that would let it leave")
    attributes = dict(entry.identity.attributes)
    attributes.update({each.type: each.value for each in template if each.type in attributes})
    identity = identity_of(attributes, None, entry.identity.twin)
    creation = Creation(group, "C_CopyObject")
    try:
        made = publish(group, replace(kept.carried, template=template), kept.proof, identity, creation.placed, False)
        creation.made(identity)
    except BaseException:
        creation.take_back()
        raise
    copy = group.objects.made(identity, made)
    creation.placed.unbind_forgotten(group, copy.handle)
    copy.value_length = entry.value_length
    answer: list[Any] = [None] * len(values)
    answer[part.result] = copy.handle
    return ck.CKR_OK, answer
