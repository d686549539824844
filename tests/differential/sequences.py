"""What hypothesis draws: sequences of calls, of fragments that mean something and of single calls that need not.

A fragment is drawn whole and shrinks call by call. Two fragments may be dealt into each other, so that operations of
several sessions are open at once.
"""

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, COUNT_2_40, FUNCTIONS
from pyha.cryptoki.kinds import Kind
from tests.differential import wrong
from tests.differential.calls import Back, Call, Closed, Fork, Gone, K, Result, S, Slot, Taken
from tests.differential.faults import Fault, Way
from tests.differential.lockstep import kinds
from tests.differential.material import (
    CIPHERS,
    DERIVATIONS,
    DIGESTS,
    GENERATED,
    OBJECTS,
    PAIRS,
    SIGNERS,
    WRAPPERS,
    Pairs,
)
from tests.differential.worker import MISSING, Null
from tests.differential.wrong import UNKNOWN, initialize_arguments, now_and_then, parameters

Calls = list[Call]
Steps = list[Call | Fork | Back]

RW, RO = ck.CKF_SERIAL_SESSION | ck.CKF_RW_SESSION, ck.CKF_SERIAL_SESSION
PINS = (b"1234", b"1234", b"1234", b"wrong", b"", b"4321")
SO_PIN = b"12345678"

_sessions = st.sampled_from([S(0)] * 5 + [S(1)] * 3 + [S(2)])
_any_session = st.one_of(*[_sessions] * 9, st.sampled_from([Closed(), 0, 0x7FFFFFF1]))
_rooms = st.sampled_from([512] * 6 + [None, None, 0, 1, 15, 16, 31, 32, 64, 127, 128])
_WHOLE_DATA = (bytes(16), b"0123456789abcdef" * 2, b"", b"x", b"block of 15 bytes"[:15], bytes(range(117)), bytes(128))
_data = st.sampled_from(_WHOLE_DATA)
_odd_data = st.one_of(*[_data] * 12, st.sampled_from([None, Null(16), bytes(1000)]))
_numbers = st.integers(0, 5)


def open_session(flags: int = RW) -> Call:
    return Call("C_OpenSession", (Slot(), flags, None, True))


def log_in(pin: bytes = b"1234", user: int = ck.CKU_USER) -> Call:
    return Call("C_Login", (S(0), user, pin))


def create(kind: str, session: int = 0, **flags: bool | bytes) -> Call:
    """C_CreateObject of a known object; `flags`: token, private, and others by the name of their attribute."""
    return Call("C_CreateObject", (S(session), (*OBJECTS[kind], *_flags(**flags)), True), kind)


def _flags(token: bool | bytes = False, private: bool | bytes = False, **others: bool | bytes) -> Pairs:
    named = tuple((getattr(ck, f"CKA_{name.upper()}"), value) for name, value in others.items())
    return ((ck.CKA_TOKEN, token), (ck.CKA_PRIVATE, private), *named)


# -- objects ----------------------------------------------------------------------------------------------------


STRANGE: Pairs = (
    (ck.CKA_LOCAL, True),
    (ck.CKA_CLASS, 99),
    (ck.CKA_KEY_TYPE, 119),
    (ck.CKA_TOKEN, b""),
    (UNKNOWN, b"x"),
    (ck.CKA_TRUSTED, True),
    (ck.CKA_ID, b"identity"),
    (ck.CKA_KEY_GEN_MECHANISM, 1),
)


@st.composite
def _templates(draw: st.DrawFn, base: Pairs, private: bool | None = None) -> Pairs:
    """A template for a new object: mostly right."""
    hidden = draw(st.booleans()) if private is None else private
    flags = dict([*base, *_flags(token=draw(st.booleans()), private=hidden)])
    odd = draw(st.sampled_from(["", "", "", "", "", "flag", "flag", "drop", "strange", "length"]))
    if odd == "flag":
        attribute = draw(
            st.sampled_from(
                [
                    ck.CKA_MODIFIABLE,
                    ck.CKA_EXTRACTABLE,
                    ck.CKA_SENSITIVE,
                    ck.CKA_SIGN,
                    ck.CKA_DECRYPT,
                    ck.CKA_ENCRYPT,
                    ck.CKA_WRAP_WITH_TRUSTED,
                    ck.CKA_ALWAYS_AUTHENTICATE,
                    ck.CKA_COPYABLE,
                    ck.CKA_DESTROYABLE,
                ]
            )
        )
        flags[attribute] = draw(st.booleans())
    elif odd == "drop":
        del flags[draw(st.sampled_from(sorted(flags)))]
    elif odd == "strange":
        attribute, value = draw(st.sampled_from(STRANGE))
        flags[attribute] = value
    # Without it the two sides could not know the same object by its visibility.
    flags.setdefault(ck.CKA_PRIVATE, hidden)
    template = tuple(flags.items())
    return draw(wrong.templates(template)) if odd == "length" else template


@st.composite
def _creations(draw: st.DrawFn, how: str) -> Calls:
    session = draw(_sessions)
    if how == "create":
        kind = draw(st.sampled_from(sorted(OBJECTS)))
        return [Call("C_CreateObject", (session, draw(_templates(OBJECTS[kind])), True), kind)]
    if how == "generate":
        kind = draw(st.sampled_from(sorted(GENERATED)))
        mechanism, base = GENERATED[kind]
        how = draw(now_and_then((mechanism, None), parameters((mechanism, None))))
        return [Call("C_GenerateKey", (session, how, draw(_templates(base)), True), kind)]
    if how == "pair":
        kind = draw(st.sampled_from(["made-ec", "made-ec", "made-ec", "made-rsa"]))
        mechanism, public, secret = PAIRS[kind]
        templates = draw(_templates(public)), draw(_templates(secret))
        return [Call("C_GenerateKeyPair", (session, (mechanism, None), *templates, True, True), kind)]
    changes = draw(
        st.sampled_from(
            [
                (),
                ((ck.CKA_TOKEN, True),),
                ((ck.CKA_TOKEN, False),),
                ((ck.CKA_ID, b"copy"),),
                ((ck.CKA_SENSITIVE, True),),
                ((ck.CKA_EXTRACTABLE, False),),
                ((ck.CKA_PRIVATE, True),),
                ((ck.CKA_SIGN, False),),
                ((ck.CKA_VALUE, b"other"),),
            ]
        )
    )
    changes = draw(now_and_then(changes, wrong.templates(changes)))
    return [Call("C_CopyObject", (session, draw(_objects()), changes, True), "")]


@st.composite
def _objects(draw: st.DrawFn) -> K | Gone | int:
    which = draw(st.sampled_from(["any"] * 6 + ["kind"] * 6 + ["gone", "none"]))
    if which == "any":
        return K("", draw(_numbers))
    if which == "kind":
        return K(draw(st.sampled_from(kinds())), draw(st.integers(0, 1)))
    return Gone(draw(_numbers)) if which == "gone" else draw(st.sampled_from([0, 0x7FFFFFF1]))


_READ = (
    *(ck.CKA_CLASS, ck.CKA_TOKEN, ck.CKA_PRIVATE, ck.CKA_LABEL, ck.CKA_VALUE, ck.CKA_KEY_TYPE, ck.CKA_ID),
    *(ck.CKA_SENSITIVE, ck.CKA_ENCRYPT, ck.CKA_SIGN, ck.CKA_DERIVE, ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT),
    *(ck.CKA_VALUE_LEN, ck.CKA_EXTRACTABLE, ck.CKA_LOCAL, ck.CKA_NEVER_EXTRACTABLE, ck.CKA_ALWAYS_SENSITIVE),
    *(ck.CKA_MODIFIABLE, ck.CKA_COPYABLE, ck.CKA_DESTROYABLE, ck.CKA_EC_POINT, ck.CKA_CHECK_VALUE, ck.CKA_SUBJECT),
    *(ck.CKA_KEY_GEN_MECHANISM, ck.CKA_TRUSTED, ck.CKA_START_DATE, UNKNOWN),
)

_queries = st.lists(
    st.tuples(st.sampled_from(_READ), st.sampled_from([256] * 6 + [None, None, 0, 1, 8, Null(8)])),
    min_size=1,
    max_size=4,
).map(tuple)


@st.composite
def _uses_of_objects(draw: st.DrawFn, how: str) -> Calls:
    session, thing = draw(_any_session), draw(_objects())
    if how == "read":
        return [Call("C_GetAttributeValue", (session, thing, draw(_queries)))]
    if how == "size":
        return [Call("C_GetObjectSize", (session, thing, True))]
    if how == "set":
        changes = draw(
            st.sampled_from(
                [
                    ((ck.CKA_ID, b"changed"),),
                    ((ck.CKA_SUBJECT, b"0\x00"),),
                    ((ck.CKA_SENSITIVE, True),),
                    ((ck.CKA_EXTRACTABLE, False),),
                    ((ck.CKA_SIGN, False),),
                    ((ck.CKA_EXTRACTABLE, True),),
                    ((ck.CKA_MODULUS, b"x"),),
                    ((ck.CKA_TOKEN, True),),
                    (),
                    ((ck.CKA_ENCRYPT, True),),
                    ((ck.CKA_VALUE, b"changed"),),
                    ((ck.CKA_ID, b"a"), (ck.CKA_CLASS, 3)),
                    ((UNKNOWN, b""),),
                ]
            )
        )
        changes = draw(now_and_then(changes, wrong.templates(changes)))
        return [Call("C_SetAttributeValue", (session, thing, changes))]
    if how == "destroy":
        return [Call("C_DestroyObject", (session, thing))]
    if how == "wrap":
        kind, mechanism = draw(st.sampled_from(WRAPPERS))
        wrapping, unwrapping = (K("rsa-public"), K("rsa-private")) if kind == "rsa" else (K(kind), K(kind))
        mechanism = draw(now_and_then(mechanism, parameters(mechanism)))
        template = (
            *((ck.CKA_CLASS, ck.CKO_SECRET_KEY), (ck.CKA_KEY_TYPE, ck.CKK_AES), (ck.CKA_ENCRYPT, True)),
            *((ck.CKA_DECRYPT, True), (ck.CKA_EXTRACTABLE, draw(st.booleans())), (ck.CKA_SENSITIVE, False)),
            *_flags(token=draw(st.booleans()), private=draw(st.booleans())),
        )
        template = draw(now_and_then(template, wrong.templates(template)))
        return [
            Call("C_WrapKey", (session, mechanism, wrapping, draw(st.just(K("aes")) | _objects()), draw(_rooms))),
            Call("C_UnwrapKey", (session, mechanism, unwrapping, Result("Wrap"), template, True), "aes"),
        ]
    kind, mechanism = draw(st.sampled_from(DERIVATIONS))
    template = (
        *((ck.CKA_CLASS, ck.CKO_SECRET_KEY), (ck.CKA_KEY_TYPE, ck.CKK_GENERIC_SECRET), (ck.CKA_VALUE_LEN, 32)),
        *((ck.CKA_SIGN, True), (ck.CKA_EXTRACTABLE, draw(st.booleans())), (ck.CKA_SENSITIVE, False)),
        *_flags(token=draw(st.booleans()), private=draw(st.booleans())),
    )
    mechanism = draw(now_and_then(mechanism, parameters(mechanism), 4))
    template = draw(now_and_then(template, wrong.templates(template)))
    return [Call("C_DeriveKey", (session, mechanism, K(kind), template, True), "derived")]


@st.composite
def _searches(draw: st.DrawFn) -> Calls:
    session = draw(_sessions)
    template = draw(
        st.sampled_from(
            [
                (),
                ((ck.CKA_CLASS, ck.CKO_SECRET_KEY),),
                ((ck.CKA_CLASS, ck.CKO_PRIVATE_KEY),),
                ((ck.CKA_TOKEN, True),),
                ((ck.CKA_TOKEN, False),),
                ((ck.CKA_KEY_TYPE, ck.CKK_AES),),
                ((ck.CKA_ID, b"changed"),),
                ((ck.CKA_SIGN, True),),
                ((ck.CKA_CLASS, ck.CKO_DATA),),
                ((ck.CKA_LABEL, b"object 3"),),
                None,
                Null(1),
                ((ck.CKA_CLASS, b"\3"),),
                ((ck.CKA_ID, Null(3)),),
                ((ck.CKA_TOKEN, b""),),
            ]
        )
    )
    calls = [Call("C_FindObjectsInit", (session, template))]
    for room in draw(st.lists(st.sampled_from([100, 100, 1, 2, 0]), max_size=3)):
        calls.append(Call("C_FindObjects", (session, room)))
    if draw(st.integers(0, 5)):
        calls.append(Call("C_FindObjectsFinal", (session,)))
    return calls


# -- operations -------------------------------------------------------------------------------------------------


@st.composite
def _bodies(draw: st.DrawFn, session: S, of: str, takes: tuple[object, ...]) -> Calls:
    """What follows an Init of an operation that gives output: what belongs there, or wrong mixtures of it. `takes`:
    inputs to draw from."""
    return draw(_in_order(session, of, takes) if draw(st.integers(0, 2)) else _in_disorder(session, of, takes))


_ASKED: tuple[tuple[int | None, ...], ...] = ((512,), (512,), (None, 512), (0, 512), (1, None, 512))
"""Rooms for the same call, one after the other, until it has enough."""


@st.composite
def _in_order(draw: st.DrawFn, session: S, of: str, takes: tuple[object, ...]) -> Calls:
    """Whole, or in parts; asked for its size, and tried with too little room, anywhere."""
    inputs, updates = st.sampled_from(takes or _WHOLE_DATA), draw(st.sampled_from([None, 0, 1, 1, 2, 3]))
    if updates is None:
        data = draw(inputs)
        return [Call(f"C_{of}", (session, data, room)) for room in draw(st.sampled_from(_ASKED))]
    calls: Calls = []
    for _ in range(updates):
        data = draw(inputs)
        if of in ("Sign", "Digest"):
            calls.append(Call(f"C_{of}Update", (session, data)))
        else:
            calls += [Call(f"C_{of}Update", (session, data, room)) for room in draw(st.sampled_from(_ASKED))]
    return [*calls, *(Call(f"C_{of}Final", (session, room)) for room in draw(st.sampled_from(_ASKED)))]


@st.composite
def _in_disorder(draw: st.DrawFn, session: S, of: str, takes: tuple[object, ...]) -> Calls:
    inputs = st.sampled_from(takes) if takes else _odd_data
    calls: Calls = []
    for how in draw(st.lists(st.sampled_from(["whole", "whole", "update", "update", "final"]), max_size=4)):
        if how == "whole":
            calls.append(Call(f"C_{of}", (session, draw(inputs), draw(_rooms))))
        elif how == "final":
            calls.append(Call(f"C_{of}Final", (session, draw(_rooms))))
        elif of in ("Sign", "Digest"):
            calls.append(Call(f"C_{of}Update", (session, draw(inputs))))
        else:
            calls.append(Call(f"C_{of}Update", (session, draw(inputs), draw(_rooms))))
    return calls


def half(kind: str, public: bool) -> str:
    return f"{kind}-{'public' if public else 'private'}" if kind in ("rsa", "ec", "made-ec", "made-rsa") else kind


@st.composite
def _keys(draw: st.DrawFn, kind: str) -> K | Gone | int:
    """Nearly always a key of the right kind."""
    if draw(st.integers(0, 9)) == 9:
        return draw(_objects().filter(lambda each: not isinstance(each, K) or not each.kind.startswith("made")))
    return K(kind, draw(st.integers(0, 2)))


@st.composite
def _ciphers(draw: st.DrawFn) -> Calls:
    session = draw(_sessions)
    kind, mechanism = draw(st.sampled_from(CIPHERS))
    mechanism = draw(now_and_then(mechanism, parameters(mechanism)))
    made = [Call("C_EncryptInit", (session, mechanism, draw(_keys(half(kind, True)))))]
    made += draw(_bodies(session, "Encrypt", ()))
    if draw(st.booleans()):
        made.append(Call("C_DecryptInit", (session, mechanism, draw(_keys(half(kind, False))))))
        made += draw(_bodies(session, "Decrypt", (Result("Encrypt"), Result("Encrypt"), bytes(16), b"")))
    return made


@st.composite
def _signatures(draw: st.DrawFn) -> Calls:
    session = draw(_sessions)
    kind, mechanism = draw(st.sampled_from(SIGNERS))
    mechanism = draw(now_and_then(mechanism, parameters(mechanism)))
    made = [Call("C_SignInit", (session, mechanism, draw(_keys(half(kind, False)))))]
    made += draw(_bodies(session, "Sign", (bytes(32), bytes(32), b"some text", b"", bytes(128))))
    if draw(st.booleans()):
        signature = draw(st.sampled_from([Result("Sign"), Result("Sign"), Result("Sign", flipped=True), b"short"]))
        made.append(Call("C_VerifyInit", (session, mechanism, draw(_keys(half(kind, True))))))
        how = draw(st.sampled_from(["whole", "parts", "final", "both"]))
        if how == "whole" or how == "both":
            made.append(Call("C_Verify", (session, Taken("Sign"), signature)))
        if how == "parts" or how == "both":
            made.append(Call("C_VerifyUpdate", (session, Taken("Sign"))))
        if how != "whole":
            made.append(Call("C_VerifyFinal", (session, signature)))
    return made


@st.composite
def _digests(draw: st.DrawFn) -> Calls:
    session = draw(_sessions)
    mechanism = draw(st.sampled_from(DIGESTS))
    made = [Call("C_DigestInit", (session, draw(now_and_then(mechanism, parameters(mechanism)))))]
    if draw(st.integers(0, 4)) == 0:
        made.append(Call("C_DigestKey", (session, draw(_objects()))))
    return made + draw(_bodies(session, "Digest", ()))


_made = [_creations(how) for how in ("create", "create", "generate", "pair", "copy")]
_used = [_uses_of_objects(how) for how in ("read", "read", "set", "size", "destroy", "wrap", "derive")]

# -- sessions, and single calls ---------------------------------------------------------------------------------


@st.composite
def _session_calls(draw: st.DrawFn) -> Calls:
    how = draw(
        st.sampled_from(
            [
                "open",
                "open",
                "open",
                "info",
                "info",
                "login",
                "login",
                "login",
                "close",
                "logout",
                "bad",
                "all",
                "pin",
                "so",
            ]
        )
    )
    session = draw(_any_session)
    if how == "open":
        return [open_session(draw(st.sampled_from([RW, RW, RO, ck.CKF_RW_SESSION, 0])))]
    if how == "info":
        return [Call("C_GetSessionInfo", (session, True))]
    if how == "login":
        user = draw(st.sampled_from([ck.CKU_USER] * 5 + [ck.CKU_SO, ck.CKU_CONTEXT_SPECIFIC, 7]))
        pin = draw(st.sampled_from(PINS)) if user != ck.CKU_SO else SO_PIN
        return [Call("C_Login", (session, user, pin))]
    if how == "close":
        return [Call("C_CloseSession", (session,))]
    if how == "logout":
        return [Call("C_Logout", (session,))]
    if how == "so":
        return [Call("C_Logout", (S(0),)), log_in(SO_PIN, ck.CKU_SO)]
    if how == "bad":
        return [Call("C_OpenSession", (Slot(False), RW, None, True))]
    if how == "all":
        return [Call("C_CloseAllSessions", (Slot(draw(st.booleans())),))]
    pins = draw(st.sampled_from([(b"1234", b"1234"), (b"1234", b"4321"), (b"wrong", b"1234"), (b"1234", b"1")]))
    return [Call("C_SetPIN", (session, *pins))]


_TABLE = FUNCTIONS[:COUNT_2_40]
_NEVER = frozenset({"C_Initialize", "C_Finalize"})
"""Not drawn as single calls: `_lives` draws them with what has to follow."""

_CREATING = frozenset(each.name for each in _TABLE if any(a.kind is Kind.OUT_OBJECT for a in each.arguments))

_right = [mechanism for _, mechanism in (*CIPHERS, *SIGNERS, *WRAPPERS, *DERIVATIONS)]
_mechanisms = st.sampled_from(
    [None, (UNKNOWN, None), (ck.CKM_AES_CBC, b"short"), (ck.CKM_AES_CBC, None), (ck.CKM_SHA256, None), *_right]
) | st.sampled_from(_right).flatmap(parameters)

_BY_KIND: dict[Kind, SearchStrategy[object]] = {
    Kind.SLOT: st.builds(Slot, st.booleans()),
    Kind.SESSION: _any_session,
    Kind.MECHANISM: _mechanisms,
    Kind.MECHANISM_TYPE: st.sampled_from([ck.CKM_SHA256, UNKNOWN]),
    Kind.BYTES: _odd_data,
    Kind.PIN: st.sampled_from([*PINS, None, Null(4)]),
    Kind.TEMPLATE: st.sampled_from([(), None, Null(2), ((ck.CKA_CLASS, ck.CKO_SECRET_KEY),), ((ck.CKA_ID, b"x"),)]),
    Kind.QUERY: st.one_of(st.none(), _queries),
    Kind.OUT_BYTES: st.one_of(_rooms, st.just(MISSING)),
    Kind.LABEL: st.sampled_from([None, b"label".ljust(32)]),
    Kind.OUT_SLOTS: st.sampled_from([None, 0, 64, MISSING]),
    Kind.OUT_MECHANISMS: st.sampled_from([None, 0, 1, 500, MISSING]),
    Kind.RESERVED: st.sampled_from([None, None, b"something"]),
    Kind.OUT_OBJECTS: st.sampled_from([None, 0, 1, 100]),
    Kind.FILL: st.sampled_from([None, 0, 1, 100]),
    Kind.USER: st.sampled_from([ck.CKU_USER, ck.CKU_SO, 9]),
    Kind.FLAGS: st.sampled_from([0, RO, RW]),
    Kind.BOOL: st.sampled_from([0, 1]),
    **dict.fromkeys((Kind.OBJECT, Kind.KEY, Kind.WRAPPING_KEY, Kind.UNWRAPPING_KEY, Kind.OPTIONAL_KEY), _objects()),
}
_number_back = st.sampled_from([True, True, None])


@st.composite
def _single(draw: st.DrawFn) -> Calls:
    """Any function of the table, each argument drawn for itself."""
    function = BY_NAME[draw(st.sampled_from(sorted(each.name for each in _TABLE if each.name not in _NEVER)))]
    arguments = tuple(draw(_BY_KIND.get(argument.kind, _number_back)) for argument in function.arguments)
    if function.name == "C_WaitForSlotEvent":
        arguments = (ck.CKF_DONT_BLOCK, *arguments[1:])  # without it, it returns when nobody can say
    return [Call(function.name, arguments, "derived" if function.name in _CREATING else None)]


# -- processes ---------------------------------------------------------------------------------------------------

_find_all: Calls = [
    Call("C_FindObjectsInit", (S(0), ())),
    Call("C_FindObjects", (S(0), 100)),
    Call("C_FindObjectsFinal", (S(0),)),
]


@st.composite
def _lives(draw: st.DrawFn) -> Steps:
    """The end of the module's use, or of a parent's; what is called in between; a new beginning."""
    ends: Steps = [Call("C_Finalize", (None,)), Call("C_Finalize", (b"reserved",)), Fork(), Fork()]
    steps: Steps = [draw(st.sampled_from(ends))]
    steps += draw(st.lists(_single(), max_size=2).map(lambda many: [call for each in many for call in each]))
    if draw(st.integers(0, 5)) == 0:
        steps.append(Call("C_Finalize", (None,)))
    steps.append(Call("C_Initialize", (draw(st.sampled_from(initialize_arguments())),)))
    steps.append(open_session(draw(st.sampled_from([RW, RW, RO]))))
    if draw(st.booleans()):
        steps.append(log_in())
    steps += _find_all
    return steps


@st.composite
def _childhoods(draw: st.DrawFn) -> Steps:
    """A child that does something and ends, with or without C_Finalize; its parent goes on."""
    inside = draw(st.one_of(_ciphers(), _signatures(), _digests(), *_made, *_used, _single()))
    end: Calls = draw(st.sampled_from([[], [Call("C_Finalize", (None,))]]))
    begin = draw(st.sampled_from([[], [Call("C_Initialize", (None,)), open_session(), log_in(), *_find_all]]))
    return [Fork(), *begin, *inside, *end, Back()]


# -- whole sequences --------------------------------------------------------------------------------------------

_KEYS = ("aes", "generic", "rsa-private", "rsa-public", "ec-private", "ec-public", "des3")


def _made_keys() -> Calls:
    token = _flags()
    made = [
        Call("C_GenerateKey", (S(0), (how, None), (*base, *token), True), kind)
        for kind, (how, base) in GENERATED.items()
    ]
    how, public, secret = PAIRS["made-ec"]
    pair = Call("C_GenerateKeyPair", (S(0), (how, None), (*public, *token), (*secret, *token), True, True), "made-ec")
    return [*made, pair]


_ALL = [open_session(), log_in(), open_session(), *(create(kind) for kind in _KEYS)]

START: tuple[Calls, ...] = (
    *([_ALL] * 6),
    [*_ALL, *_made_keys()],
    [*_ALL, *_made_keys()],
    [open_session()],
    [open_session(RO), open_session()],
    [open_session(), log_in()],
    [open_session(), *(create(kind) for kind in _KEYS[:3])],
    [open_session(), open_session(), *(create(kind) for kind in _KEYS)],
    [open_session(), log_in(), open_session(RO), *(create(kind, private=True) for kind in _KEYS)],
    [open_session(), log_in(), *(create(kind, private=True) for kind in _KEYS[:4])],
    [open_session(), log_in(), open_session(RO), *(create(kind) for kind in ("aes", "generic", "rsa-private"))],
    [
        open_session(),
        log_in(),
        open_session(),
        *(create(k, private=True) for k in ("aes", "rsa-private", "rsa-public")),
    ],
    [open_session(), log_in(), *(create(kind, token=True) for kind in ("aes", "generic", "ec-private", "ec-public"))],
    [open_session(), log_in(), *(create(k, token=True, private=True) for k in ("aes", "rsa-private", "rsa-public"))],
    [open_session(), log_in(), create("aes", token=True, private=True, extractable=False), open_session(RO)],
    [open_session(), log_in(SO_PIN, ck.CKU_SO), *(create(kind) for kind in _KEYS), Call("C_InitPIN", (S(0), b"4321"))],
    [open_session(), log_in(SO_PIN, ck.CKU_SO), *(create(kind, token=True) for kind in ("aes", "rsa-public", "data"))],
    [],
)

_fragments = st.one_of(
    *([_ciphers(), _ciphers(), _signatures(), _signatures(), _digests(), *_made, *_used] * 2),
    *(_searches(), _searches(), _session_calls(), _session_calls()),
    *([_single()] * 5),
)
_all_fragments = st.one_of(*[_fragments] * 12, _lives(), _childhoods())


def _dealt(pair: tuple[Steps, Steps]) -> Steps:
    first, second = pair
    longest = max(len(first), len(second))
    return [each[at] for at in range(longest) for each in (first, second) if at < len(each)]


def _joined(parts: tuple[Calls, Sequence[Steps]]) -> Steps:
    start, fragments = parts
    return [*start, *(call for fragment in fragments for call in fragment)]


def sequences(most: int = 20, lives: bool = True) -> SearchStrategy[Steps]:
    """Sequences of so many fragments at most. `lives`: in which modules are finalised and processes fork."""
    single = _all_fragments if lives else _fragments
    dealt = st.tuples(single, single).map(_dealt)
    fragments = st.lists(st.one_of(single, single, dealt), min_size=2, max_size=most)
    return st.tuples(st.sampled_from(START), fragments).map(_joined)


# -- with faults ------------------------------------------------------------------------------------------------

_STRUCK = (
    *("C_OpenSession", "C_Login", "C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetAttributeValue"),
    *("C_SetAttributeValue", "C_FindObjectsInit", "C_FindObjects", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey"),
    *("C_EncryptInit", "C_EncryptUpdate", "C_EncryptFinal", "C_Encrypt", "C_DecryptUpdate", "C_Decrypt"),
    *("C_SignInit", "C_SignUpdate", "C_SignFinal", "C_Sign", "C_Verify", "C_DigestInit", "C_DigestUpdate"),
    *("C_DigestFinal", "C_Digest", "C_GenerateKey", "C_GenerateKeyPair", "C_GenerateRandom", "C_CloseSession"),
)


def _without_pins(steps: Steps) -> Steps:
    """Without changes of the PIN, which need every member."""
    return [step for step in steps if not isinstance(step, Call) or step.name not in ("C_SetPIN", "C_InitPIN")]


@st.composite
def troubled(draw: st.DrawFn, members: int, most: int = 10) -> list[Call | Fault | Fork | Back]:
    """A sequence in which members fail, and one never does. At most one fault costs a deadline; crashes meet one member
    only: a call that two helpers crash in gets its error (SEMANTICS.md section 3)."""
    sequence: list[Call | Fault | Fork | Back] = list(_without_pins(draw(sequences(most, lives=False))))
    spared = draw(st.integers(0, members - 1))
    others = [index for index in range(members) if index != spared]
    crashes = draw(st.sampled_from(others))
    ways = st.sampled_from([Way.KILLED, Way.KILLED, Way.REMOVED, Way.REMOVED, Way.DIES])
    for number in range(draw(st.integers(1, 4))):
        way = draw(ways if number else st.one_of(ways, ways, ways, st.sampled_from([Way.STOPPED, Way.HANGS])))
        function = draw(st.sampled_from(_STRUCK)) if way in (Way.REMOVED, Way.DIES, Way.HANGS) else ""
        at = draw(st.integers(0, len(sequence)))
        member = crashes if way is Way.DIES else draw(st.sampled_from(others))
        sequence.insert(at, Fault(member, way, function))
    return sequence
