"""NULL and nonsense for every row of the table: the specification's CK_RV, no crash, nothing allocated.

Generated from the table: a sound call of each function is made from its kinds, then one C parameter at a time is
replaced. What a kind answers is stated here once, by kind and parameter.
"""

from typing import Any

import pytest

from pyha.abi.codec import FORMS, Malformed, Refused
from pyha.abi.memory import COUNT_LIMIT, OUT_LIMIT
from pyha.abi.native import ffi
from pyha.cryptoki.constants import CKM_RSA_PKCS, CKR_ARGUMENTS_BAD, CKR_FUNCTION_NOT_SUPPORTED, CKR_OK
from pyha.cryptoki.functions import FUNCTIONS, Argument, Function, Route
from pyha.cryptoki.kinds import KINDS, Flow, Kind
from pyha.cryptoki.values import MemberInitialize
from tests.abi.codec_memory import NULL, Application, codec_of, written

ROWS = [function for function in FUNCTIONS if function.route is not Route.NATIVE]
HUGE = (2**32, 2**63, 2**64 - 2, 2**64 - 1)

NULL_IS_FINE = {
    (Kind.PARAMETER, ""),
    (Kind.OUT_BYTES, ""),
    (Kind.OUT_SLOTS, ""),
    (Kind.OUT_MECHANISMS, ""),
    (Kind.INITIALIZE, ""),
    (Kind.RESERVED, ""),
    (Kind.NOTIFY, "_data"),
    (Kind.NOTIFY, ""),
}
"""Pointers that may be NULL beside a length that is not 0. Every other one is CKR_ARGUMENTS_BAD."""

ANY_NUMBER = {(Kind.PARAMETER, "_len"), (Kind.OUT_OBJECTS, "_max")}
"""Lengths and counts passed by value that may be anything."""


def sound(app: Application, argument: Argument) -> dict[str, Any]:
    """C parameters of one argument that nobody can object to."""
    made: dict[str, Any] = {}
    for ctype, suffix in KINDS[argument.kind].c:
        made[argument.name + suffix] = parameter(app, argument.kind, ctype, suffix)
    return made


def parameter(app: Application, kind: Kind, ctype: str, suffix: str) -> Any:
    if kind in (Kind.RESERVED, Kind.NOTIFY):
        return NULL
    if kind is Kind.INITIALIZE:
        return app.new("CK_C_INITIALIZE_ARGS *")
    if ctype == "CK_MECHANISM_PTR":
        return app.new("CK_MECHANISM *", (CKM_RSA_PKCS, NULL, 0))
    if ctype == "CK_ATTRIBUTE_PTR":
        return app.new("CK_ATTRIBUTE[2]", [(3, app.bytes(b"12345678"), 8), (0x102, NULL, 0)])
    if ctype.endswith("_PTR") and suffix in ("_len", "_count"):
        return app.new("CK_ULONG *", 2)
    if ctype.endswith("_PTR"):
        return ffi.cast(ctype, app.new("CK_ULONG[64]"))
    return 2 if suffix in ("_len", "_count", "_max") else 1


def call(app: Application, function: Function, **changed: Any) -> Any:
    fields: dict[str, Any] = {}
    for argument in function.arguments:
        fields |= sound(app, argument)
    return app.struct(function.name, **(fields | changed))


def parameters(pointers: bool) -> list[Any]:
    """Every pointer, or every length and count that is passed by value, of every row."""
    found = []
    for function in ROWS:
        for argument in function.arguments:
            for ctype, suffix in KINDS[argument.kind].c:
                pointer = ctype.endswith("_PTR") or ctype == "CK_NOTIFY"
                if pointer if pointers else suffix in ("_len", "_count", "_max") and not pointer:
                    case = (function, argument, suffix)
                    found.append(pytest.param(*case, id=f"{function.name}-{argument.name}{suffix}"))
    return found


def test_every_kind_that_reaches_python_has_a_form() -> None:
    reached = {argument.kind for function in ROWS for argument in function.arguments}
    assert reached == set(FORMS)


@pytest.mark.parametrize("function", ROWS, ids=lambda function: function.name)
def test_a_sound_call_travels(function: Function) -> None:
    app = Application()
    codec = codec_of(function.name)
    values = codec.decode(call(app, function))
    assert len(values) == len(function.arguments)
    values = [
        MemberInitialize() if each.kind is Kind.INITIALIZE else value
        for each, value in zip(function.arguments, values, strict=True)
    ]
    if any(argument.kind is Kind.PARAMETER for argument in function.arguments):
        with pytest.raises(Refused) as refusal:
            written(codec, values)
        assert refusal.value.rv == CKR_FUNCTION_NOT_SUPPORTED
        return
    arena = written(codec, values)
    at = 0
    for argument in function.arguments:
        for ctype, _ in KINDS[argument.kind].c:
            if ctype.endswith("_PTR") and arena.words[at]:
                arena.offset(arena.words[at], 0)
            at += 1
    results = codec.read(arena, values, CKR_FUNCTION_NOT_SUPPORTED)
    assert results == [None] * len(values)


@pytest.mark.parametrize(("function", "argument", "suffix"), parameters(pointers=True))
def test_null(function: Function, argument: Argument, suffix: str) -> None:
    app = Application()
    struct = call(app, function, **{argument.name + suffix: NULL})
    if (argument.kind, suffix) in NULL_IS_FINE:
        codec_of(function.name).decode(struct)
        return
    with pytest.raises(Refused) as refusal:
        codec_of(function.name).decode(struct)
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(("function", "argument", "suffix"), parameters(pointers=False))
def test_huge_lengths_and_counts(function: Function, argument: Argument, suffix: str, number: int) -> None:
    app = Application()
    struct = call(app, function, **{argument.name + suffix: number})
    codec = codec_of(function.name)
    if (argument.kind, suffix) in ANY_NUMBER:
        codec.decode(struct)
        return
    with pytest.raises(Refused) as refusal:
        codec.decode(struct)
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


ROOM = [
    case
    for case in parameters(pointers=True)
    if KINDS[case.values[1].kind].flow is not Flow.IN and case.values[2] in ("_len", "_count")
]
ATTRIBUTES = [case for case in parameters(pointers=False) if case.values[1].kind in (Kind.TEMPLATE, Kind.QUERY)]
MAKING = [
    function
    for function in ROWS
    if {Kind.OUT_OBJECT, Kind.OUT_SESSION} & {argument.kind for argument in function.arguments}
]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(("function", "argument", "suffix"), ROOM)
def test_huge_room_is_not_believed(function: Function, argument: Argument, suffix: str, number: int) -> None:
    app, codec = Application(), codec_of(function.name)
    values = codec.decode(call(app, function, **{argument.name + suffix: app.new("CK_ULONG *", number)}))
    assert codec.size(values) < OUT_LIMIT + 8 * COUNT_LIMIT + 4096


@pytest.mark.parametrize("count", [COUNT_LIMIT + 1, 2**31])
@pytest.mark.parametrize(("function", "argument", "suffix"), ATTRIBUTES)
def test_more_attributes_than_can_be_meant(function: Function, argument: Argument, suffix: str, count: int) -> None:
    app = Application()
    with pytest.raises(Refused) as refusal:
        codec_of(function.name).decode(call(app, function, **{argument.name + suffix: count}))
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


def test_an_object_that_is_found_without_a_handle_is_not_believed() -> None:
    codec, values = codec_of("C_FindObjects"), [1, 3]
    arena = written(codec, values)
    arena.put_ulong(arena.words[3], 2)
    arena.put_ulong(arena.words[1], 7, 0)
    with pytest.raises(Malformed, match="without a handle"):
        codec.read(arena, values, CKR_OK)
    arena.put_ulong(arena.words[1], 7, 8)
    assert codec.read(arena, values, CKR_OK)[1] == (7, 8)


@pytest.mark.parametrize("function", MAKING, ids=lambda function: function.name)
def test_success_without_a_handle_is_not_believed(function: Function) -> None:
    app, codec = Application(), codec_of(function.name)
    values = codec.decode(call(app, function))
    with pytest.raises(Malformed, match="success without a handle"):
        codec.read(written(codec, values), values, CKR_OK)
