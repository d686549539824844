"""Carries one described call out on both sides, compares the answers, and keeps what later calls name: which handles
the sides have given for the same session or object, what an open operation has taken and given.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Operation, Route
from pyha.cryptoki.kinds import Kind
from tests.differential import own_faults
from tests.differential.calls import Call, Closed, Gone, K, Result, S, Slot, Taken
from tests.differential.material import GENERATED, OBJECTS, PAIRS, RANDOM
from tests.differential.worker import CRASHED, Answer, Worker

INVALID = 0x7FFFFFF1
"""A handle that nobody has given, and a slot that nobody has."""

_LONGEST = 2**32

_OF_A_PROCESS = (
    *("things", "sessions", "initialized", "_known", "_gone", "_closed", "_runs", "_done", "_searches", "_uncertain"),
    *("_user", "_read_only", "_logged_in", "_refused"),
)
"""What a parent still knows when its child has ended."""

MATERIAL = frozenset(
    {
        ck.CKA_VALUE,
        ck.CKA_CHECK_VALUE,
        ck.CKA_MODULUS,
        ck.CKA_EC_POINT,
        ck.CKA_PRIVATE_EXPONENT,
        ck.CKA_PRIME_1,
        ck.CKA_PRIME_2,
        ck.CKA_EXPONENT_1,
        ck.CKA_EXPONENT_2,
        ck.CKA_COEFFICIENT,
    }
)
"""Attributes that are another on each side for a key that each has generated."""

Handles = list[int]
"""The bare module's and the slot's."""


@dataclass(eq=False)
class Thing:
    """One object as both sides know it. `handles`: 0 where a side has none to give. `same`: the sides have equal key
    material. `session`: that of a session object. `mortal`: a session key that dies with its member.
    `leaves`: it was made extractable."""

    tag: bytes
    kind: str
    handles: Handles
    private: bool
    same: bool
    session: int | None = None
    mortal: bool = False
    leaves: bool = False


@dataclass
class _Run:
    """An operation from its Init to its end."""

    mechanism: int
    same: bool
    exact: bool
    taken: bytes = b""
    outputs: tuple[bytes, bytes] = (b"", b"")


@dataclass(frozen=True)
class Difference:
    """What the two sides answered differently to a call; `field`: its CK_RV, a length, an output ..."""

    call: Call
    field: str
    bare: Any
    slot: Any
    attribute: int | None = None
    thing: Thing | None = None
    searching: bool = False
    """The call's session has a search open."""
    uncertain: bool = False
    """A call for an operation of this session has met an error, or there was a logout."""
    nonsense: bool = False
    """The bare module has reported a length that no output can have."""
    faults: frozenset[int] = frozenset()
    """Codes for what is wrong with the call by itself, which the slot finds out without a member."""
    died: bool = False
    """A member was struck while there were session keys that die with theirs."""
    littered: bool = False
    """The bare module has refused to make a token object."""


@dataclass
class Lockstep:
    """Both sides, and what is known of them."""

    bare: Worker
    slot: Worker
    slots: tuple[int, int]
    things: dict[tuple[bytes, int], Thing] = field(default_factory=dict)
    sessions: list[Handles] = field(default_factory=list)
    calls: int = 0
    last_rv: int = ck.CKR_OK
    struck: bool = False
    initialized: bool = True
    littered: bool = False
    """The bare module has refused to make a token object, of which it may have left something."""
    wrote: bool = False
    """A forked child has written to the tokens: its parent's modules may look at them anew, or not yet."""

    tags: dict[bytes, bool] = field(default_factory=dict)
    """The labels of all objects that were made, in whichever process; whether the sides have equal key material."""

    def __post_init__(self) -> None:
        self._parents: list[dict[str, Any]] = []
        self._known: tuple[dict[int, Thing], dict[int, Thing]] = ({}, {})
        self._gone: list[Handles] = []
        self._closed: Handles = [0, 0]
        self._runs: dict[tuple[int, Operation], _Run] = {}
        self._done: dict[str, _Run] = {}
        self._searches: dict[int, tuple[list[Thing], list[Thing]]] = {}
        self._uncertain: set[int] = set()
        self._died = False
        self._user = False
        self._made = 0
        self._read_only: set[int] = set()
        self._logged_in = False
        self._refused = False

    # -- arguments ----------------------------------------------------------------------------------------------

    def _usable(self, kind: str) -> list[Thing]:
        return [each for each in self.things.values() if all(each.handles) and kind in ("", each.kind)]

    def _thing(self, symbol: Any) -> Thing | None:
        if not isinstance(symbol, K):
            return None
        found = self._usable(symbol.kind)
        return found[symbol.n % len(found)] if found else None

    def _handle(self, symbol: Any, side: int) -> Any:
        if isinstance(symbol, S):
            return self.sessions[symbol.n % len(self.sessions)][side] if self.sessions else INVALID
        if isinstance(symbol, Closed):
            return self._closed[side]
        if isinstance(symbol, K):
            thing = self._thing(symbol)
            return thing.handles[side] if thing else INVALID
        if isinstance(symbol, Gone):
            return self._gone[symbol.n % len(self._gone)][side] if self._gone else INVALID
        if isinstance(symbol, Slot):
            return self.slots[side] if symbol.right else INVALID
        if isinstance(symbol, Result):
            done = self._done.get(symbol.of)
            content = b"nothing" if done is None else done.outputs[1 - side if done.same else side]
            if symbol.flipped and content:
                content = content[:-1] + bytes([content[-1] ^ 1])
            return content
        if isinstance(symbol, Taken):
            done = self._done.get(symbol.of)
            return b"" if done is None else done.taken
        return symbol

    def _named(self, call: Call, values: list[Any]) -> list[Any]:
        """With a label in each template of a new object, by which it is known from then on."""
        if call.makes is None:
            return values
        kinds = [argument.kind for argument in BY_NAME[call.name].arguments]
        label = (ck.CKA_LABEL, b"object %d" % self._made)
        return [
            (*value, label) if kind is Kind.TEMPLATE and isinstance(value, tuple) else value
            for kind, value in zip(kinds, values, strict=True)
        ]

    # -- processes ----------------------------------------------------------------------------------------------

    def fork(self) -> list[Difference]:
        """Go on in a forked child of each application, which has not called C_Initialize."""
        self._parents.append(copy.deepcopy({name: getattr(self, name) for name in _OF_A_PROCESS}))
        answers = [worker.fork().rv for worker in (self.bare, self.slot)]
        self._finalized()
        return [] if answers == [ck.CKR_OK] * 2 else [Difference(Call("fork", ()), "crash", answers[0], answers[1])]

    def back(self) -> list[Difference]:
        """The children end; go on in their parents, whose sessions are what they were. Nothing where there are none."""
        if not self._parents:
            return []
        answers = [worker.back().rv for worker in (self.bare, self.slot)]
        for name, value in self._parents.pop().items():
            setattr(self, name, value)
        if answers != [ck.CKR_OK] * 2:
            return [Difference(Call("back", ()), "crash", answers[0], answers[1])]
        infos = [Call("C_GetSessionInfo", (S(at), True)) for at in range(len(self.sessions))]
        return [difference for call in infos for difference in self.do(call)]

    @property
    def away(self) -> bool:
        """These processes cannot tell what is on the tokens."""
        return bool(self._parents) or self.wrote or not self.initialized

    def _finalized(self) -> None:
        """No session, no login, and no handle means anything."""
        self._may_have_died()
        for handles in list(self.sessions):
            self._ended(handles[0])
        for thing in self.things.values():
            self._lost(thing)
        self._gone.clear()
        self._uncertain.clear()
        self._read_only.clear()
        self._closed = [0, 0]
        self.initialized = self._logged_in = self._user = self._refused = False

    # -- one call -----------------------------------------------------------------------------------------------

    def do(self, call: Call) -> list[Difference]:
        """Carry it out on both sides; what they answered differently."""
        self._made += call.makes is not None
        session = self._session(call)
        searching = session in self._searches
        faults = frozenset(self._faults(call, session))
        writes = bool(self._parents) and own_faults.writes_token(call, self._on_token)
        answers = []
        for side, worker in enumerate((self.bare, self.slot)):
            values = self._named(call, [self._handle(value, side) for value in call.arguments])
            answers.append(worker.call(call.name, *values))
        self.calls += 1
        bare, slot = answers
        self.last_rv = bare.rv
        self.wrote |= writes
        if call.makes is not None and bare.rv != ck.CKR_OK:
            self._refused = True
            self.littered |= own_faults.writes_token(call, self._on_token)
        if bare.rv != slot.rv:
            nonsense = any(
                isinstance(each, tuple) and each and isinstance(each[0], int) and each[0] > _LONGEST
                for each in bare.results
            )
            uncertain = session in self._uncertain
            subject = self._subject(call)
            died = self._may_have_died()
            return [
                Difference(call, "rv", bare.rv, slot.rv, None, subject, searching, uncertain, nonsense, faults, died)
            ]
        if bare.rv == CRASHED:
            return [Difference(call, "crash", True, True)]
        return [*self._compared(call, bare, slot), *self._learned(call, session, bare, slot)]

    def _may_have_died(self) -> bool:
        """Whether a session key of which nobody could keep a wrapped form, or unwrap it now, was on a member that was
        struck."""
        if self.struck:
            keys = [each for each in self.things.values() if each.session is not None and _is_key(each.kind)]
            self._died = self._died or any(each.mortal or not self._user for each in keys)
        return self._died

    def _subject(self, call: Call) -> Thing | None:
        """The first object that a call names."""
        return next(filter(None, map(self._thing, call.arguments)), None)

    def _faults(self, call: Call, session: int) -> set[int]:
        """Codes for what is wrong with a call before any member is asked."""
        found = own_faults.of_arguments(call, lambda symbol: self._thing(symbol) is not None)
        if call.name == "C_Initialize":
            return found | {ck.CKR_CRYPTOKI_ALREADY_INITIALIZED} if self.initialized else found
        if not self.initialized:
            return {ck.CKR_CRYPTOKI_NOT_INITIALIZED}
        function = BY_NAME[call.name]
        if call.arguments and isinstance(call.arguments[0], S) and not self.sessions:
            found.add(ck.CKR_SESSION_HANDLE_INVALID)
        if call.arguments and call.arguments[0] == Slot(False):
            found.add(ck.CKR_SLOT_ID_INVALID)
        goes_on = function.route in (Route.CONTINUE, Route.FINISH) and (session, function.operation) not in self._runs
        if goes_on or (call.name in ("C_FindObjects", "C_FindObjectsFinal") and session not in self._searches):
            found.add(ck.CKR_OPERATION_NOT_INITIALIZED)
        if session in self._read_only and own_faults.writes_token(call, self._on_token):
            found.add(ck.CKR_SESSION_READ_ONLY)
        if call.name == "C_Login" and self._logged_in:
            found |= {ck.CKR_USER_ALREADY_LOGGED_IN, ck.CKR_USER_ANOTHER_ALREADY_LOGGED_IN}
        return found

    def _on_token(self, symbol: Any) -> bool:
        thing = self._thing(symbol)
        return thing is not None and thing.session is None

    def _session(self, call: Call) -> int:
        first = call.arguments[0] if call.arguments else None
        return int(self._handle(first, 0)) if isinstance(first, S | Closed) else 0

    def _compared(self, call: Call, bare: Answer, slot: Answer) -> Iterator[Difference]:
        function = BY_NAME[call.name]
        run = self._runs.get((self._session(call), function.operation)) if function.operation else None
        for position, argument in enumerate(function.arguments):
            ours, theirs = bare.results[position], slot.results[position]
            if argument.kind is Kind.OUT_BYTES and (ours is not None or theirs is not None):
                exact = run.exact if run is not None else self._exact_alone(call)
                if (ours and ours[0]) != (theirs and theirs[0]):
                    yield Difference(call, "length", ours and ours[0], theirs and theirs[0])
                elif exact and ours != theirs:
                    yield Difference(call, "output", ours, theirs)
            elif argument.kind is Kind.QUERY and (ours is not None or theirs is not None):
                yield from self._attributes(call, call.arguments[position], ours or (), theirs or ())
            elif argument.kind is Kind.OUT_SESSION_INFO and ours is not None and ours[8:32] != theirs[8:32]:
                yield Difference(call, "output", ours[8:32], theirs[8:32])
            elif argument.kind is Kind.OUT_SIZE and ours != theirs:
                yield Difference(call, "length", ours, theirs)

    def _exact_alone(self, call: Call) -> bool:
        """Is the output of a call without an operation the same on both sides."""
        if call.name != "C_WrapKey":
            return False
        things = [self._thing(call.arguments[2]), self._thing(call.arguments[3])]
        mechanism = call.arguments[1]
        return all(each and each.same for each in things) and mechanism[0] not in (*RANDOM, ck.CKM_RSA_PKCS)

    def _attributes(self, call: Call, queries: Any, ours: Any, theirs: Any) -> Iterator[Difference]:
        thing = self._thing(call.arguments[1])
        for (attribute, _), one, other in zip(queries, ours, theirs, strict=False):
            if one[0] != other[0]:
                yield Difference(call, "attribute length", one[0], other[0], attribute, thing)
            elif one != other and not (attribute in MATERIAL and thing is not None and not thing.same):
                yield Difference(call, "attribute", one[1], other[1], attribute, thing)
        if len(ours) != len(theirs):
            yield Difference(call, "attributes", ours, theirs)

    # -- what a call leaves -------------------------------------------------------------------------------------

    def _learned(self, call: Call, session: int, bare: Answer, slot: Answer) -> Iterator[Difference]:
        name, ok = call.name, bare.rv == ck.CKR_OK
        function = BY_NAME[name]
        if function.route in (Route.START, Route.CONTINUE, Route.FINISH):
            self._operated(call, session, bare, slot)
        if not ok:
            return
        self._may_have_died()
        if name == "C_SetAttributeValue":
            thing = self._thing(call.arguments[1])
            if thing is not None:
                # One that could be read and not wrapped: what was kept of it is not fit for what it has become.
                thing.mortal |= not thing.leaves and (ck.CKA_SENSITIVE, True) in call.arguments[2]
                thing.leaves &= (ck.CKA_EXTRACTABLE, False) not in call.arguments[2]
        if name == "C_OpenSession":
            self.sessions.append([bare.results[3], slot.results[3]])
            if not call.arguments[1] & ck.CKF_RW_SESSION:
                self._read_only.add(bare.results[3])
        elif name == "C_Initialize":
            self.initialized = True
        elif name == "C_Finalize":
            self._finalized()
        elif name == "C_Login":
            self._logged_in = True
            self._user = call.arguments[1] == ck.CKU_USER
        elif name == "C_CloseSession":
            self._ended(session)
        elif name == "C_CloseAllSessions":
            for handles in list(self.sessions):
                self._ended(handles[0])
        elif name == "C_Logout":
            self._logged_out()
        elif name == "C_DestroyObject":
            thing = self._thing(call.arguments[1])
            if thing is not None:
                self._lost(thing)
                self.things = {key: each for key, each in self.things.items() if each is not thing}
        elif name == "C_FindObjectsInit":
            self._searches[session] = ([], [])
        elif name == "C_FindObjectsFinal":
            self._searches.pop(session, None)
        elif name == "C_FindObjects":
            yield from self._found(call, session, bare.results[1], slot.results[1])
        elif name == "C_WrapKey" and call.arguments[4] and isinstance(call.arguments[4], int):
            same = all(each and each.same for each in map(self._thing, call.arguments[2:4]))
            outputs = bare.results[4][1] or b"", slot.results[4][1] or b""
            self._done["Wrap"] = _Run(0, same, False, b"", outputs)
        elif call.makes is not None:
            self._remember(call, session, bare, slot)

    def _remember(self, call: Call, session: int, bare: Answer, slot: Answer) -> None:
        function = BY_NAME[call.name]
        results = [at for at, each in enumerate(function.arguments) if each.kind is Kind.OUT_OBJECT]
        templates = [
            dict(call.arguments[at]) for at, each in enumerate(function.arguments) if each.kind is Kind.TEMPLATE
        ]
        source = self._thing(call.arguments[1]) if call.name == "C_CopyObject" else None
        base = self._thing(call.arguments[2]) if call.name in ("C_DeriveKey", "C_UnwrapKey") else None
        for order, (at, template) in enumerate(zip(results, templates, strict=True)):
            kind = call.makes or (source.kind if source else "")
            if len(results) == 2:
                kind += ("-public", "-private")[order]
            private = _flag(template, ck.CKA_PRIVATE, source.private if source else True)
            token = _flag(template, ck.CKA_TOKEN, source is not None and source.session is None)
            same = not function.random and (source is None or source.same) and (base is None or base.same)
            if call.name == "C_UnwrapKey":
                same = same and "Wrap" in self._done and self._done["Wrap"].same
            handles = [bare.results[at], slot.results[at]]
            label = b"object %d" % self._made
            thing = Thing(label, kind, handles, private, same, None if token else session)
            thing.leaves = _flag(template, ck.CKA_EXTRACTABLE, source is not None and source.leaves)
            trusted = _flag(template, ck.CKA_WRAP_WITH_TRUSTED, False)
            inherited = source is not None and source.mortal
            thing.mortal = not token and _is_key(kind) and (not self._user or trusted or inherited)
            self.things[label, order] = thing
            self.tags[label] = same
            for side in (0, 1):
                self._known[side][handles[side]] = thing

    def _operated(self, call: Call, session: int, bare: Answer, slot: Answer) -> None:
        function = BY_NAME[call.name]
        operation = function.operation
        assert operation is not None
        of = operation.name.title()
        place = (session, operation)
        if function.route is Route.START:
            if bare.rv == ck.CKR_OK:
                mechanism = call.arguments[1][0]
                thing = self._thing(call.arguments[2]) if len(call.arguments) > 2 else None
                same = operation is Operation.DIGEST or (thing is not None and thing.same)
                random = mechanism in RANDOM or (mechanism == ck.CKM_RSA_PKCS and operation is Operation.ENCRYPT)
                exact = same and (operation is Operation.DECRYPT or not random)
                self._runs[place] = _Run(mechanism, same, exact)
            return
        if bare.rv not in (ck.CKR_OK, ck.CKR_BUFFER_TOO_SMALL):
            self._uncertain.add(session)
        run = self._runs.get(place)
        if run is None:
            return
        asked = call.arguments[-1] is None and function.arguments[-1].kind is Kind.OUT_BYTES
        if bare.rv == ck.CKR_BUFFER_TOO_SMALL or (bare.rv == ck.CKR_OK and asked):
            return
        if bare.rv != ck.CKR_OK:
            del self._runs[place]
            return
        given = call.arguments[1] if len(function.arguments) > 1 else b""
        if call.name == "C_DigestKey":
            thing = self._thing(given)
            run.exact = run.exact and thing is not None and thing.same
        if isinstance(given, bytes) and function.arguments[1].kind is Kind.BYTES:
            run.taken += given
        if function.arguments[-1].kind is Kind.OUT_BYTES:
            mine, other = bare.results[-1], slot.results[-1]
            run.outputs = run.outputs[0] + (mine[1] or b""), run.outputs[1] + (other[1] or b"")
        if function.route is Route.FINISH:
            self._done[of] = run
            del self._runs[place]

    def _ended(self, session: int) -> None:
        for handles in self.sessions:
            if handles[0] == session:
                self._closed = handles
                self.sessions.remove(handles)
                break
        self._searches.pop(session, None)
        for place in [each for each in self._runs if each[0] == session]:
            del self._runs[place]
        for key, thing in list(self.things.items()):
            if thing.session == session:
                self._lost(thing)
                del self.things[key]
        if not self.sessions:
            self._logged_out()

    def _logged_out(self) -> None:
        self._may_have_died()
        self._logged_in = self._user = False
        self._runs.clear()
        self._uncertain.update(handles[0] for handles in self.sessions)
        for key, thing in list(self.things.items()):
            if thing.private:
                self._lost(thing)
                if thing.session is not None:
                    del self.things[key]

    def _lost(self, thing: Thing) -> None:
        """Its handles mean nothing any more."""
        self._gone.append(list(thing.handles))
        for side in (0, 1):
            self._known[side].pop(thing.handles[side], None)
        thing.handles = [0, 0]

    # -- searches -----------------------------------------------------------------------------------------------

    def _found(self, call: Call, session: int, bare: Any, slot: Any) -> Iterator[Difference]:
        if len(bare) != len(slot) and not self._refused:
            yield self._not_found(call, len(bare), len(slot))
            return
        search = self._searches.get(session)
        if search is None:
            return
        for side, handles in enumerate((bare, slot)):
            for handle in handles:
                thing = self._known[side].get(handle) or self._recognised(side, call, handle)
                if thing is not None:
                    search[side].append(thing)
                elif side == 1 or not self._refused:
                    yield self._not_found(call, *((handle, 0) if side == 0 else (0, handle)))
                # Else it is a part of what SoftHSM refused to make, which it leaves in the session; not so the slot.
        if max(len(bare), len(slot)) < (call.arguments[1] or 0):
            ours, theirs = ([f"{each.tag!r} {each.kind}" for each in found] for found in search)
            if sorted(ours) != sorted(theirs):
                yield self._not_found(call, sorted(ours), sorted(theirs))

    def _not_found(self, call: Call, bare: Any, slot: Any) -> Difference:
        return Difference(call, "found", bare, slot, died=self._may_have_died(), littered=self.littered)

    def _recognised(self, side: int, call: Call, handle: int) -> Thing | None:
        """The object of a handle that this side has not given before, by its label."""
        queries = ((ck.CKA_LABEL, 64), (ck.CKA_CLASS, 8))
        session = self._handle(call.arguments[0], side)
        answer = (self.bare, self.slot)[side].call("C_GetAttributeValue", session, handle, queries)
        if answer.rv != ck.CKR_OK:
            return None
        (_, label), (_, object_class) = answer.results[2]
        private = int.from_bytes(object_class, "little") == ck.CKO_PRIVATE_KEY
        thing = self.things.get((label, 1)) if private else None
        thing = thing or self.things.get((label, 0))
        if thing is not None and not thing.handles[side]:
            thing.handles[side] = handle
            self._known[side][handle] = thing
            return thing
        return None


def _flag(template: dict[int, Any], attribute: int, otherwise: bool) -> bool:
    """What a new object is, where its template says so in the right length."""
    value = template.get(attribute, otherwise)
    return value != b"\0" if isinstance(value, bytes) and len(value) == 1 else value is True


def _is_key(kind: str) -> bool:
    return not kind.endswith("-public") and kind not in ("data", "certificate")


def kinds() -> list[str]:
    """Every kind of object that there may be."""
    pairs = [f"{which}-{part}" for which in PAIRS for part in ("public", "private")]
    return [*OBJECTS, *GENERATED, *pairs, "derived"]
