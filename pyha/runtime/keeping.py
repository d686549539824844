"""New session objects: made on one member, and what is kept of each so that it can be brought to another.

A key that is not to leave is made extractable, on the session that holds it, wrapped, and made unextractable before the
application gets its handle; nobody else can name it meanwhile. A session object is never refused because it cannot be
brought elsewhere: then it dies with its member, and the log says so once.

Source: SEMANTICS.md section 5 (session objects).
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.keys import settable_in_unwrap
from pyha.cryptoki.kinds import Kind
from pyha.cryptoki.plain import dataclass, replace
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.carrying import (
    extractable_template,
    key_template,
    leaves,
    named_false,
    object_template,
    to_read_of_key,
    to_read_of_object,
)
from pyha.ha.cloning import Carried, from_record
from pyha.ha.identity import READ, WITH_VALUE, Identity, flag, identity_of, number, ulong
from pyha.ha.replication import KEY_CLASSES, guards, value_of
from pyha.runtime import log
from pyha.runtime.bench import Bench
from pyha.runtime.binding import handles_of
from pyha.runtime.copying import existing_record, present_attributes
from pyha.runtime.failover import POISON_LIMIT, run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, destroy, read_attributes
from pyha.runtime.kept import Kept, KeptKey, KeptObject
from pyha.runtime.making import MakeCall
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.outcomes import Refusal, Unreplicable
from pyha.runtime.proving import CheckValue, Proof, public_proof
from pyha.runtime.session import VirtualSession
from pyha.runtime.showing import weaknesses
from pyha.runtime.strategy import make_of, require_strategy, strategy_of

if TYPE_CHECKING:
    from pyha.runtime.creating import Part

Shown = dict[int, bytes]


class _Otherwise(Exception):
    """The call has to be made in another way. `as_asked`: just as the application said it."""

    def __init__(self, as_asked: bool) -> None:
        super().__init__("to be made otherwise")
        self.as_asked = as_asked


def make_session_objects(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any], parts: "Sequence[Part]"
) -> tuple[int, list[Any]]:
    """A creating call all of whose results are session objects: (CK_RV, results with virtual handles). Raises Refusal,
    NobodyLeft, Unknown."""
    poisoned = 0
    as_asked = group.user != ck.CKU_USER
    while True:
        closing = () if as_asked else _closing(group, function, values, parts)
        call = MakeCall(group, function, _opened(values, closing), session)
        rv, results = run(group, call)
        if rv != ck.CKR_OK and closing:
            as_asked = True  # what the member thinks of the application's own call is the answer
            continue
        if rv != ck.CKR_OK or call.connection is None:
            return rv, []
        try:
            return ck.CKR_OK, _Making(group, session, call, values, closing, as_asked).of(parts, results)
        except _Otherwise as other:
            as_asked = other.as_asked
        except MemberLost as loss:
            group.lost(call.index, call.connection.generation, str(loss))
            poisoned += loss.culprit
            if poisoned >= POISON_LIMIT:
                raise Refusal(ck.CKR_DEVICE_ERROR, "it ends the helpers that it is given to") from None
        except (SearchFailed, SessionRefused) as failure:
            raise Refusal(failure.rv, f"member {group.name(call.index)} cannot read what it made") from None


def _closing(group: GroupRuntime, function: Function, values: list[Any], parts: "Sequence[Part]") -> "tuple[Part, ...]":
    """The keys that are made extractable and are not to stay so."""
    if any(argument.kind is Kind.OBJECT for argument in function.arguments):
        return ()  # a copy is no more extractable than its source
    return tuple(part for part in parts if _closes(group, function, values, part))


def _closes(group: GroupRuntime, function: Function, values: list[Any], part: "Part") -> bool:
    template: Template = values[part.template]
    if part.object_class not in KEY_CLASSES or flag(value_of(template, ck.CKA_WRAP_WITH_TRUSTED)):
        return False
    said = leaves(template)
    if said is None:  # by what this group's tokens did the last time
        return group.extractable_by_default.get(_default(function, template, part)) is False
    return not said


def _default(function: Function, template: Template, part: "Part") -> tuple[Any, ...]:
    """What a token's default for CKA_EXTRACTABLE may depend on."""
    sensitive = value_of(template, ck.CKA_SENSITIVE)
    return function.index, part.object_class, number(value_of(template, ck.CKA_KEY_TYPE)), sensitive


def _opened(values: list[Any], closing: "Sequence[Part]") -> list[Any]:
    if not closing:
        return values
    changed = list(values)
    for part in closing:
        changed[part.template] = extractable_template(values[part.template])
    return changed


@dataclass(frozen=True, slots=True)
class _New:
    """One new object, before it has a virtual handle."""

    real: int
    identity: Identity
    kept: Kept | None
    length: int | None = None


class _Making:
    """One call's new objects on the member that made them, all on the session that holds them."""

    def __init__(
        self,
        group: GroupRuntime,
        session: VirtualSession,
        call: MakeCall,
        values: list[Any],
        closing: "Sequence[Part]",
        as_asked: bool,
    ) -> None:
        assert call.connection is not None
        self._group = group
        self._session = session
        self._call = call
        self._values = values
        self._closing = closing
        self._as_asked = as_asked
        self._connection: Connection = call.connection
        self._holder = call.real_session
        self._deadline = group.deadline(call.function.slow)
        self._from_another = bool(handles_of(call.function, values))
        # The object is what the template says, and nothing that the token had to find out.
        self._as_said = not self._from_another and not call.function.random

    def of(self, parts: "Sequence[Part]", results: list[Any]) -> list[Any]:
        """The results with virtual handles. Raises Refusal, _Otherwise, MemberLost, SearchFailed, SessionRefused; then
        nothing of it stays."""
        made: list[_New] = []
        reals = {results[part.result] for part in parts}
        done = False
        try:
            public: Shown = {}
            for part in parts:
                shown = self._shown(part, results[part.result])
                if number(shown.get(ck.CKA_CLASS)) in KEY_CLASSES:
                    made.append(self._key(part, results[part.result], shown, public))
                else:
                    public = shown
                    made.append(self._object(part, results[part.result], shown))
            done = True
        finally:
            if not done:
                self._take_back(reals | {new.real for new in made})
        answer: list[Any] = [None] * len(self._values)
        home = (self._call.index, self._connection.generation)
        for part, new in zip(parts, made, strict=True):
            bound = [(self._connection, new.real)]
            entry = self._group.objects.made(new.identity, bound, self._session.handle, home, new.kept)
            entry.value_length = new.length
            answer[part.result] = entry.handle
        return answer

    def _take_back(self, reals: set[int]) -> None:
        for real in reals:
            if self._connection.clock() < self._deadline:
                try:
                    destroy(self._connection, self._holder, real, self._deadline)
                except (MemberLost, SessionRefused):
                    return

    def _shown(self, part: "Part", real: int) -> Shown:
        object_class = part.object_class
        key_type = number(value_of(part.asked, ck.CKA_KEY_TYPE))
        if object_class is None or (object_class == ck.CKO_PUBLIC_KEY and key_type is None):
            kind = self._read(real, (ck.CKA_CLASS, ck.CKA_KEY_TYPE))
            object_class, key_type = number(kind.get(ck.CKA_CLASS)), number(kind.get(ck.CKA_KEY_TYPE))
        if object_class in KEY_CLASSES:
            return self._read(real, to_read_of_key(object_class or 0, key_type, self._from_another))
        shown = self._read(real, to_read_of_object(object_class or 0, key_type) or READ)
        if not self._as_said and object_class in WITH_VALUE:
            shown |= read_attributes(self._connection, self._holder, real, (ck.CKA_VALUE,), self._deadline)
        return shown

    def _read(self, real: int, wanted: tuple[int, ...]) -> Shown:
        shown = read_attributes(self._connection, self._holder, real, wanted, self._deadline)
        if ck.CKA_CLASS not in shown:
            raise Refusal(ck.CKR_DEVICE_ERROR, "the new object cannot be read")
        return shown

    # -- what is no secret --------------------------------------------------------------------------------------

    def _object(self, part: "Part", real: int, shown: Shown) -> _New:
        object_class = number(shown.get(ck.CKA_CLASS)) or 0
        hashed = None
        if object_class in WITH_VALUE:
            value = _last(part.asked, ck.CKA_VALUE) if self._as_said else shown.get(ck.CKA_VALUE)
            hashed = sha256(value).digest() if value else None
        identity = identity_of({kind: value for kind, value in shown.items() if kind in READ}, hashed)
        kept = None
        if to_read_of_object(object_class, number(shown.get(ck.CKA_KEY_TYPE))):
            template = object_template(part.asked, shown, self._as_said)
            kept = None if template is None else KeptObject(template)
        if kept is None:
            self._say("no member could be told to make it again")
        return _New(real, identity, kept)

    # -- keys ---------------------------------------------------------------------------------------------------

    def _key(self, part: "Part", real: int, shown: Shown, public: Shown) -> _New:
        closing = part in self._closing
        leaves_now = flag(shown.get(ck.CKA_EXTRACTABLE))
        if not closing and not self._as_asked and leaves(part.asked) is None and not self._from_copy:
            default = _default(self._call.function, self._values[part.template], part)
            self._group.extractable_by_default.setdefault(default, leaves_now)
            if _closes(self._group, self._call.function, self._values, part):
                raise _Otherwise(as_asked=False)
        twin = public.get(ck.CKA_EC_POINT)
        identity = identity_of({kind: value for kind, value in shown.items() if kind in READ}, None, twin)
        kept: KeptKey | None = None
        try:
            kept = self._kept(part, real, shown, public, leaves_now, closing)
        except (Unreplicable, Refusal) as reason:
            self._say(str(reason))
        if closing:
            real = self._close(part, real, kept)
        return _New(real, identity, kept, None if kept is None else kept.carried.value_length)

    @property
    def _from_copy(self) -> bool:
        return any(argument.kind is Kind.OBJECT for argument in self._call.function.arguments)

    def _kept(
        self, part: "Part", real: int, shown: Shown, public: Shown, leaves_now: bool, closing: bool
    ) -> KeptKey | None:
        """Raises Unreplicable, Refusal, MemberLost, SessionRefused, SearchFailed."""
        if self._group.user != ck.CKU_USER:
            raise Unreplicable("nobody is logged in, who could see the domain keys")
        require_strategy(self._group, shown)
        asked = self._all_of_it(real, shown) if self._from_copy else part.asked
        template = key_template(asked, shown, leaves_now and not closing, self._from_another)
        if template is None:
            raise Unreplicable("it has attributes that a copy could not be given")
        if leaves_now:
            return KeptKey(self._carry(part, real, shown, template), self._proof(shown, public))
        source = self._kept_of_source() if self._from_copy else None
        if source is None:
            raise Unreplicable("it cannot be wrapped any more")
        if not guards(source.carried.domain, template):
            raise Unreplicable("its wrapped form is under a domain key that would let it leave")
        return replace(source, carried=replace(source.carried, template=template))

    def _all_of_it(self, real: int, shown: Shown) -> Template:
        settable = settable_in_unwrap(number(shown[ck.CKA_CLASS]) or 0, number(shown.get(ck.CKA_KEY_TYPE)) or 0)
        return present_attributes(self._connection, self._holder, real, settable, self._deadline)

    def _kept_of_source(self) -> KeptKey | None:
        """The carried form of what C_CopyObject copies: kept of a session key, recorded of a token key. Raises
        Unreplicable."""
        for handle, _ in handles_of(self._call.function, self._values):
            entry = self._group.objects.get(handle)
            if entry is None or entry.session is not None:
                return entry.kept if entry is not None and isinstance(entry.kept, KeptKey) else None
            record = existing_record(self._group, entry)
            if record is not None:
                shown = dict(entry.identity.attributes)
                carried = from_record(record, record.template, shown)
                strategy_of(self._group, carried)
                proof = CheckValue(record.check_value) if record.check_value else None
                return KeptKey(carried, proof or public_proof(entry.identity.key_type or 0, shown))
        return None

    def _carry(self, part: "Part", real: int, shown: Shown, template: Template) -> Carried:
        length = number(shown.get(ck.CKA_VALUE_LEN)) or number(value_of(part.asked, ck.CKA_VALUE_LEN))
        value = _last(part.asked, ck.CKA_VALUE)
        if not length and number(shown[ck.CKA_CLASS]) == ck.CKO_SECRET_KEY and value is not None:
            length = len(value)
        told = {**shown, ck.CKA_VALUE_LEN: ulong(length or 0)}
        bench = Bench(self._group, self._connection, self._holder, self._deadline)
        return require_strategy(self._group, shown).carry_of_session(bench, real, told, template)

    def _proof(self, shown: Shown, public: Shown) -> Proof | None:
        """What is known of the key without asking for more. The check value of a key that was unwrapped or derived is
        not believed: modules leave it empty, or show that of another key."""
        if number(shown.get(ck.CKA_CLASS)) == ck.CKO_SECRET_KEY:
            check_value = shown.get(ck.CKA_CHECK_VALUE)
            return CheckValue(check_value) if check_value and not self._from_another else None
        return public_proof(number(shown.get(ck.CKA_KEY_TYPE)) or 0, {**shown, **public})

    def _close(self, part: "Part", real: int, kept: KeptKey | None) -> int:
        """Make the key unextractable, or another object of it that is: its real handle. Raises _Otherwise, MemberLost,
        SessionRefused, SearchFailed."""
        connection, holder, deadline = self._connection, self._holder, self._deadline
        if not named_false(part.asked, ck.CKA_MODIFIABLE):
            closed: Template = (Attribute(ck.CKA_EXTRACTABLE, b"\0"),)
            connection.enter_catalogue(deadline, alone=True)
            try:
                rv, _ = connection.call("C_SetAttributeValue", deadline, holder, real, closed)
            finally:
                connection.catalogue.leave()
            if rv == ck.CKR_OK:
                return real
        if kept is not None:
            rv, copy = make_of(Bench(self._group, connection, holder, deadline), kept.carried, kept.carried.template)
            if rv == ck.CKR_OK:
                lacking = weaknesses(connection, holder, copy, kept.protections, deadline)
                if not lacking and destroy(connection, holder, real, deadline) == ck.CKR_OK:
                    return copy
                destroy(connection, holder, copy, deadline)
        raise _Otherwise(as_asked=True)

    def _say(self, reason: str) -> None:
        group = self._group
        if reason not in group.uncarried:
            group.uncarried.add(reason)
            label = group.settings.label
            log.log("notice", f'group "{label}": {self._call.function.name}: dies with its member: {reason}')


def _last(template: Template, attribute: int) -> Any:
    """The value of an attribute in a template as it was given, without a copy; None where it is not named."""
    found = [each.value for each in template if each.type == attribute and not isinstance(each.value, tuple)]
    return found[-1] if found else None
